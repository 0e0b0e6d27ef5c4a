"""Print what the best attack gains in an audit that was cut, from its rows alone, in Markdown.

    python benchmarks/gpu/seeds_table.py benchmarks/gpu/results/frontier_cifar10/rows.jsonl

The rows are those of attackers whose runs are whole. Seeds after `--choosing` choose the best
attack, and the others report it. The interval is the report's: 95 % by Student's t, with the error
of the student without the API.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from stingy_attacker_eval.report.significance import difference
from stingy_attacker_eval.results import (
    NO_ENDPOINT,
    Row,
    Summary,
    best_attacks,
    count_anew,
    summarise,
)

TEST_IMAGES = 10_000
"""Of CIFAR-10."""

ALIKE = "all-labels"
"""The attacker whose students have as many labels without the API as with it."""


def read_rows(path: Path, choosing: Sequence[int]) -> list[Row]:
    """Read rows, with their uplift over the mean baseline of their group of seeds."""
    rows = [Row.model_validate_json(line) for line in path.read_text().splitlines()]
    return [count_anew(row, rows, selection_seeds=choosing) for row in rows]


def format_uplift(summary: Summary, base: Summary, rows: Sequence[Row]) -> str:
    """Write the uplift in points, with its interval, and the attack.

    rows: the reported rows of one attacker.
    """
    found = difference(
        summary, base, rows, test_images=TEST_IMAGES, is_baseline_alike=base.attacker == ALIKE
    )
    assert found.interval is not None  # noqa: S101 - there are two seeds or more
    half = found.interval[1] - found.mean
    return f"{found.mean:+.1f} ± {half:.1f} {summary.attack}"


def write_table(rows: Sequence[Row], choosing: Sequence[int]) -> str:
    """Return a row for each endpoint and a column for each attacker, the largest gain first."""
    attackers = list(dict.fromkeys(row.attacker for row in rows))
    bases, best, cells = [], [], []
    for attacker in attackers:
        own = [row for row in rows if row.attacker == attacker]
        summaries = summarise(own, selection_seeds=choosing)
        base = next(s for s in summaries if s.endpoint == NO_ENDPOINT and s.budget is None)
        bases.append(f"{base.accuracy_mean:.1f} %")
        reported = [row for row in own if row.seed not in choosing]
        best.append(best_attacks(summaries))
        cells.append({name: format_uplift(s, base, reported) for name, s in best[-1].items()})
    lines = [["policy", *attackers], ["---"] * (len(attackers) + 1), ["no API", *bases]]
    for name in sorted(best[0], key=lambda name: -(best[0][name].uplift_mean or 0.0)):
        lines.append([best[0][name].defence, *(found[name] for found in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the best attack gains in a cut audit.")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--choosing", type=int, nargs="*", default=[0, 1, 2])
    arguments = parser.parse_args()
    print(write_table(read_rows(arguments.rows, arguments.choosing), arguments.choosing))  # noqa: T201


if __name__ == "__main__":
    main()
