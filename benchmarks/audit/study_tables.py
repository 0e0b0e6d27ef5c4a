"""The tables of a study of marks, for `tables.py`."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from stingy_attacker_eval.mark_study.analysis import Results
from stingy_attacker_eval.mark_study.rows import OrderNumbers
from stingy_attacker_eval.mark_study.run import RESULTS
from stingy_attacker_eval.ownership.proof import format_p
from stingy_attacker_eval.ownership.statistics import LEVEL
from stingy_attacker_eval.report.formatting import signed

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
_LEVELS = ("0.1", "0.05", "0.01", "0.001")


def read_results(folder: Path) -> Results:
    """Read the results of a study."""
    return Results.model_validate_json((folder / RESULTS).read_bytes())


def thieves(results: Results) -> Table:
    """Draw each thief: its matches, and what they prove without and with the order."""
    head = ("thief", "marked", "accuracy, %", "marked inputs", "could match", "matches")
    head = (*head, "by chance", "p of classes", "inputs for a proof", "seeds found")
    head = (*head, "p of the order", "inputs for a proof", "seeds found by both tests")
    lines = []
    for thief in results.thieves:
        test, order = thief.answers, thief.preferred
        pairs = zip(test.p_values, order.p_values, strict=True)
        both = sum(2 * min(p for p in (*pair, 1.0) if p is not None) <= LEVEL for pair in pairs)
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
                "" if test.needed is None else f"{test.needed:,}",
                f"{thief.found} of {thief.seeds}",
                format_p(order.p_value),
                "" if order.needed is None else f"{order.needed:,}",
                f"{both} of {thief.seeds}",
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


def costs(results: Results) -> Table:
    """Draw the accuracy of honest and of marked answers, as means over the seeds."""
    shares = list(results.endpoints[0].marked_accuracy)
    columns = [[row.accuracy for row in results.endpoints]]
    columns += [[row.marked_accuracy[share] for row in results.endpoints] for share in shares]
    head = ("no marks", *(f"{100 * float(share):g} % marked" for share in shares))
    return head, [[f"{fmean(column):.1f}" for column in columns]]


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
    "costs": costs,
    "orders": orders,
}
