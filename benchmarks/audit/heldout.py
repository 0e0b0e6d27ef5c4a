"""Compare the audit heldout_cifar16 with the numbers of other code in the same setting.

    python benchmarks/audit/heldout.py FOLDER

The other numbers come from scripts that were written apart from the audit: the attacks by hand, on
the audit's training loop and live endpoints, at commit 77bd536, seeds 0 to 2. Each line is a gap
between two students of the same seed, in points of accuracy. The last column says whether both
numbers agree within two standard errors of their difference.
"""

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stingy_attacker_eval.report.formatting import signed_finely
from stingy_attacker_eval.report_schema import Report, read_report

_FEW = "few-labels"
_IMAGES = "few-images"
_VIEWS = "consistent[views=9]"
_SWEEP = "sweep[tau=1,alpha=0.5]"


@dataclass(frozen=True)
class Gap:
    """The accuracy of one student minus that of another.

    one, other: endpoint and attack. The endpoint "none" is the baseline's.
    expected, error: the gap of the other code, and its standard error; None if not stated.
    """

    text: str
    one: tuple[str, str]
    other: tuple[str, str]
    expected: float
    error: float | None = None
    attacker: str = "all-labels"


GAPS = (
    Gap(
        "nine labels averaged, over one",
        ("label", "label_votes"),
        ("label", "label_only"),
        1.77,
        0.21,
    ),
    Gap(
        "nine labels averaged and the true one, over one and the true one",
        ("label", "label_votes[true_labels=True]"),
        ("label", "two_labels"),
        0.87,
        0.10,
    ),
    Gap(
        "each view its own label and the true one, over one and the true one",
        ("label", "label_votes[average=False,true_labels=True]"),
        ("label", "two_labels"),
        1.38,
        0.27,
    ),
    Gap("stingy, nine views, over one", ("stingy", _VIEWS), ("stingy", "soft_label"), 1.89, 0.29),
    Gap("open, nine views, over one", ("open", _VIEWS), ("open", "soft_label"), 1.75, 0.24),
    Gap(
        "open at tau 4, nine views, over one",
        ("open", "consistent[attack=paper_kd,views=9,tau=4]"),
        ("open", "paper_kd[tau=4]"),
        2.4,
    ),
    Gap(
        "the same views without the API, over plain images",
        ("open", "consistent[attack=no_api,views=9]"),
        ("none", "no_api"),
        0.59,
        0.23,
    ),
    Gap(
        "modelguard_w, inverted, over its scores as they are",
        ("modelguard-w", "inversion"),
        ("modelguard-w", _SWEEP),
        3.99,
    ),
    Gap(
        "modelguard_w, inverted without true labels, over labels",
        ("modelguard-w", "inversion[true_labels=False]"),
        ("label", "label_only"),
        0.75,
        0.06,
    ),
    Gap("few labels: label", ("label", "label_only"), ("none", "no_api"), 17.2, None, _FEW),
    Gap("few labels: stingy", ("stingy", "soft_label"), ("none", "no_api"), 17.9, None, _FEW),
    Gap("few labels: open", ("open", "soft_label"), ("none", "no_api"), 18.7, None, _FEW),
    Gap("few labels: label, views", ("label", "label_votes"), ("none", "no_api"), 19.0, None, _FEW),
    Gap("few labels: stingy, views", ("stingy", _VIEWS), ("none", "no_api"), 19.8, None, _FEW),
    Gap("few labels: open, views", ("open", _VIEWS), ("none", "no_api"), 20.4, None, _FEW),
    Gap(
        "2,000 images: stingy over labels",
        ("stingy", "soft_label"),
        ("label", "label_only"),
        2.15,
        0.09,
        _IMAGES,
    ),
    Gap(
        "2,000 images: open over labels",
        ("open", "soft_label"),
        ("label", "label_only"),
        3.04,
        0.10,
        _IMAGES,
    ),
    Gap(
        "2,000 images: class_prototype over labels",
        ("prototype", "soft_label"),
        ("label", "label_only"),
        -1.65,
        None,
        _IMAGES,
    ),
)


def gap_table(report: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the head and the lines of the comparison, as texts."""
    head = ("comparison", "attacker", "gap, points", "other code", "agree")
    return head, [_line(report, gap) for gap in GAPS]


def _line(report: Report, gap: Gap) -> tuple[str, ...]:
    one, other = (_accuracies(report, gap.attacker, *place) for place in (gap.one, gap.other))
    points = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    if len(points) < 2:
        return gap.text, gap.attacker, "", _text(gap.expected, gap.error), ""
    mean = statistics.fmean(points)
    error = statistics.stdev(points) / len(points) ** 0.5
    spread = (error**2 + (gap.error or error) ** 2) ** 0.5
    agree = "yes" if abs(mean - gap.expected) <= 2 * spread else "no"
    return gap.text, gap.attacker, _text(mean, error), _text(gap.expected, gap.error), agree


def _accuracies(report: Report, attacker: str, endpoint: str, attack: str) -> dict[int, float]:
    """Return accuracies by seed."""
    return {
        row.seed: row.accuracy
        for row in report.rows
        if (row.attacker, row.endpoint, row.attack) == (attacker, endpoint, attack)
        and row.budget is None
        and row.finite
    }


def _text(mean: float, error: float | None) -> str:
    return signed_finely(mean) if error is None else f"{signed_finely(mean)} ± {error:.2f}"


def main() -> None:
    head, lines = gap_table(read_report(Path(sys.argv[1])))
    table = Table(*head)
    for line in lines:
        table.add_row(*line)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
