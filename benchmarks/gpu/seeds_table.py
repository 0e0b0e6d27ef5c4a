"""Print the best attacks of an audit whose seeds were cut, from its rows alone, in Markdown.

    python benchmarks/gpu/seeds_table.py benchmarks/gpu/results/frontier_cifar10/rows.jsonl

The rows are those of attackers whose runs are whole. Seeds after `--choosing` choose the best
attack, and the others report it. The interval has 95 % by Student's t over the reported seeds.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from scipy import stats

from stingy_attacker_eval.results import (
    NO_ENDPOINT,
    Row,
    Summary,
    baseline_accuracy,
    best_attacks,
    summarise,
)


def read_rows(path: Path, choosing: Sequence[int]) -> list[Row]:
    """Read rows, with their uplift over the mean baseline of their group of seeds."""
    rows = [Row.model_validate_json(line) for line in path.read_text().splitlines()]
    reported = sorted({row.seed for row in rows} - set(choosing))
    found = []
    for row in rows:
        base = baseline_accuracy(
            rows,
            row.student,
            row.budget,
            attacker=row.attacker,
            seeds=choosing if row.seed in choosing else reported,
        )
        assert base is not None  # noqa: S101 - a finite baseline is one of the rows
        uplift = 0.0 if row.endpoint == NO_ENDPOINT else row.accuracy - base
        found.append(row.model_copy(update={"uplift": uplift}))
    return found


def uplift_text(summary: Summary) -> str:
    """Write the uplift in points, with its interval."""
    assert summary.uplift_mean is not None  # noqa: S101 - a best attack has one
    if summary.uplift_spread is None:
        return f"{summary.uplift_mean:+.1f}"
    half = stats.t.ppf(0.975, summary.n - 1) * summary.uplift_spread / math.sqrt(summary.n)
    return f"{summary.uplift_mean:+.1f} ± {half:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="The best attacks of an audit that was cut.")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--choosing", type=int, nargs="*", default=[0, 1, 2])
    arguments = parser.parse_args()
    rows = read_rows(arguments.rows, arguments.choosing)
    for attacker in dict.fromkeys(row.attacker for row in rows):
        own = [row for row in rows if row.attacker == attacker]
        summaries = summarise(own, selection_seeds=arguments.choosing)
        base = next(s for s in summaries if s.endpoint == NO_ENDPOINT and s.budget is None)
        print(f"\n{attacker}: {base.accuracy_mean:.1f} % without the API\n")  # noqa: T201
        print("| endpoint | best attack | points over no API |\n|---|---|---|")  # noqa: T201
        best = sorted(best_attacks(summaries).values(), key=lambda s: -(s.uplift_mean or 0.0))
        for found in best:
            print(f"| {found.defence} | {found.shown} | {uplift_text(found)} |")  # noqa: T201


if __name__ == "__main__":
    main()
