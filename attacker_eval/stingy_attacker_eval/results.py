"""Rows of an audit and their summaries. A broken attack never counts as protection."""

import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

WHITE_BOX = "white-box"
"""The mark in the label of an attack that reads the network itself."""

NO_ENDPOINT = "none"
"""The endpoint's name in rows of the no-API baseline."""


class Row(BaseModel):
    """One student, trained once.

    queries: the images whose answers the student was trained on.
    accuracy, agreement, teacher_accuracy: percent of the test set; the latter two are None for
        the baseline, which has no teacher.
    uplift: points over the no-API baseline of the same student on as many images, mean over seeds.
    finite: False if the loss was not finite, which is a broken attack.
    seconds: of the whole attack.
    budget: the images the attacker was limited to; None for all.
    trained_on: the endpoint whose student this is, None for its own. Both endpoints sold equal
        labels and the attack reads labels only, so the student was trained once.
    commit: of the code that trained it; None outside a checkout, or if not recorded.
    threads: of the process that trained it; None if not recorded.
    measures: other numbers that the attack reports, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    endpoint: str
    defence: str
    attack: str
    student: str
    seed: int
    queries: int
    accuracy: float
    agreement: float | None
    teacher_accuracy: float | None
    uplift: float
    finite: bool
    seconds: float
    budget: int | None = None
    trained_on: str | None = None
    commit: str | None = None
    threads: int | None = None
    measures: dict[str, float] = {}


class Summary(BaseModel):
    """One attack on one endpoint with one student, over the seeds whose loss stayed finite.

    n: the number of those seeds.
    accuracy_mean, agreement_mean: percent; uplift_mean: points; None if n is 0.
    accuracy_spread, uplift_spread: sample standard deviations; None if n is below 2.
    queries: the most that a run used.
    runs: all seeds, those whose loss was not finite included.
    gains: runs that ended above the baseline.
    budget, trained_on: as in the rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    endpoint: str
    defence: str
    attack: str
    student: str
    n: int
    accuracy_mean: float | None
    accuracy_spread: float | None
    agreement_mean: float | None
    uplift_mean: float | None
    uplift_spread: float | None
    all_finite: bool
    queries: int
    budget: int | None
    runs: int
    gains: int
    trained_on: str | None

    @property
    def shown(self) -> str:
        """The attack's name in a table, with its budget, and its student's endpoint if another."""
        images = "" if self.budget is None else f", {self.budget:,} images"
        origin = "" if self.trained_on is None else f" (as on {self.trained_on})"
        return f"{self.attack}{images}{origin}"

    @property
    def attack_name(self) -> str:
        """The attack without its settings."""
        return attack_name(self.attack)

    @property
    def white_box(self) -> bool:
        """True if the attack reads the network itself, as its label says."""
        return WHITE_BOX in self.attack.partition("[")[2].rstrip("]").split(",")


def attack_name(label: str) -> str:
    """Return the name in an attack's label, without the settings."""
    return label.partition("[")[0]


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Return one summary per endpoint, attack, student and budget, in order of their first rows."""
    groups: dict[tuple[str, str, str, int | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.endpoint, row.attack, row.student, row.budget), []).append(row)
    return [_summary(group) for group in groups.values()]


def baseline_accuracy(rows: Sequence[Row], student: str, budget: int | None = None) -> float | None:
    """Return the no-API baseline's mean accuracy for this student on as many images.

    None if no run of it stayed finite.
    """
    return _mean(
        [
            row.accuracy
            for row in rows
            if (row.endpoint, row.student, row.budget) == (NO_ENDPOINT, student, budget)
            and row.finite
        ]
    )


def best_attacks(summaries: Sequence[Summary]) -> dict[str, Summary]:
    """Return per endpoint the attack (and student) with the highest mean uplift.

    Among equals it is the first. Seeds whose loss was not finite do not count, nor do white-box
    attacks. Smaller budgets do not count, because their uplift is counted from a weaker
    baseline. An endpoint without such an attack has no entry.
    """
    best: dict[str, tuple[float, Summary]] = {}
    for summary in summaries:
        if summary.endpoint == NO_ENDPOINT or summary.white_box or summary.budget is not None:
            continue
        if summary.uplift_mean is None:
            continue
        leader = best.get(summary.endpoint)
        if leader is None or summary.uplift_mean > leader[0]:
            best[summary.endpoint] = summary.uplift_mean, summary
    return {endpoint: summary for endpoint, (_, summary) in best.items()}


def _summary(rows: Sequence[Row]) -> Summary:
    first, finite = rows[0], [row for row in rows if row.finite]
    accuracies = [row.accuracy for row in finite]
    uplifts = [row.uplift for row in finite]
    return Summary(
        endpoint=first.endpoint,
        defence=first.defence,
        attack=first.attack,
        student=first.student,
        n=len(finite),
        accuracy_mean=_mean(accuracies),
        accuracy_spread=_spread(accuracies),
        agreement_mean=_mean([row.agreement for row in finite if row.agreement is not None]),
        uplift_mean=_mean(uplifts),
        uplift_spread=_spread(uplifts),
        all_finite=len(finite) == len(rows),
        queries=max(row.queries for row in rows),
        budget=first.budget,
        runs=len(rows),
        gains=sum(uplift > 0 for uplift in uplifts),
        trained_on=first.trained_on,
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
