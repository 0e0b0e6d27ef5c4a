"""The tables of a study of marks, for `tables.py`."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from stingy_attacker_eval.mark_study.analysis import Results
from stingy_attacker_eval.mark_study.rows import OrderNumbers
from stingy_attacker_eval.mark_study.run import RESULTS
from stingy_attacker_eval.ownership.proof import format_p
from stingy_attacker_eval.report.formatting import signed

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
_LEVELS = ("0.1", "0.05", "0.01", "0.001")


def read_results(folder: Path) -> Results:
    """Read the results of a study."""
    return Results.model_validate_json((folder / RESULTS).read_bytes())


def thieves(results: Results) -> Table:
    """Draw each thief: its marked inputs, its matches and what they prove."""
    head = ("thief", "marked", "accuracy, %", "marked inputs", "could match", "matches")
    head = (*head, "by chance", "p, all seeds", "seeds found", "inputs for a proof, 9 of 10 times")
    lines = []
    for thief in results.thieves:
        test = thief.answers
        lines.append(
            [
                f"`{thief.student}`",
                f"{100 * thief.share:g} %",
                f"{thief.accuracy:.1f}",
                f"{test.questions:,}",
                f"{test.informative:,}",
                f"{test.matches:,}",
                f"{test.expected:,.1f}",
                format_p(test.p_value),
                f"{thief.found} of {thief.seeds}",
                "" if test.needed is None else f"{test.needed:,}",
            ]
        )
    return head, lines


def innocents(results: Results) -> Table:
    """Draw the share of pairs of an innocent and a secret with p at most each level."""
    head = ("marked", "pairs", "judged", *(f"p ≤ {level}" for level in _LEVELS))
    lines = [
        [
            f"{100 * found.share:g} %",
            f"{found.tried:,}",
            f"{found.judged:,}",
            *(f"{100 * found.at_most[level]:.2f} %" for level in _LEVELS),
        ]
        for found in results.innocents
        if found.data == "all"
    ]
    return head, lines


def orders(results: Results) -> Table:
    """Draw the experiment of a secret order: each kind of student, over the seeds or students."""
    head = ("students", "trained on", "z beyond the teacher", "z beyond innocents")
    found = defaultdict(list)
    for row in results.orders:
        thief = row.data == "thief"
        found[(f"`{row.student}`", "lists") if thief else ("innocents", "no list")].append(row)
    lines = [
        [
            f"{len(rows)} {student}",
            data,
            _range([row.teacher for row in rows]),
            _range([row.references for row in rows]),
        ]
        for (student, data), rows in found.items()
    ]
    return head, lines


def _range(numbers: Sequence[OrderNumbers]) -> str:
    values = [each.z for each in numbers]
    least_p = format_p(min(each.p_value for each in numbers))
    return f"{signed(min(values))} to {signed(max(values))} (least p {least_p})"


KINDS: dict[str, Callable[[Results], Table]] = {
    "thieves": thieves,
    "innocents": innocents,
    "orders": orders,
}
