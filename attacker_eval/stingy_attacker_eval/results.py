"""Rows of an audit and what they add up to; a broken attack never counts as protection."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WHITE_BOX = "white-box"
"""What the label of an attack says that sees the network itself."""

NO_ENDPOINT = "none"
"""The endpoint's name in rows of the no-API baseline."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One student trained once. accuracy, agreement, teacher_accuracy: percent of the test set.

    uplift: percentage points over the no-API baseline of the same student on as many images (mean
    over seeds).
    agreement and teacher_accuracy are None for the baseline, which has no teacher. queries: the
    images whose answers it learnt from. seconds: of the whole attack; of its last training alone in
    rows of earlier versions. budget: the images it was held to, where the audit tries several
    budgets. trained_on: the endpoint whose student this is, where the attack reads labels alone and
    both endpoints sold the same; it was not trained again. commit, threads: of the process that
    trained it, None in rows of earlier versions; commit as `source_commit` has it.
    """

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


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One attack on one endpoint with one student, over the seeds whose loss stayed finite.

    n: those seeds; means in percent, spreads are sample standard deviations (None below two).
    queries: the most a run of it used. runs: with those whose loss was not finite; gains: those
    that ended above the baseline. None in reports of earlier versions. trained_on: as in the rows.
    """

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
    queries: int | None = None
    budget: int | None = None
    runs: int | None = None
    gains: int | None = None
    trained_on: str | None = None

    @property
    def shown(self) -> str:
        """The attack in a table, with its budget, and the endpoint of its student if another."""
        images = "" if self.budget is None else f", {self.budget:,} images"
        copied = "" if self.trained_on is None else f" (as on {self.trained_on})"
        return f"{self.attack}{images}{copied}"

    @property
    def attack_name(self) -> str:
        """The attack without its settings."""
        return self.attack.partition("[")[0]

    @property
    def white_box(self) -> bool:
        """Whether the attack saw the network itself; its label says so."""
        return WHITE_BOX in self.attack.partition("[")[2].rstrip("]").split(",")


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """One summary per endpoint, attack, student and budget, in the order of their first rows."""
    groups: dict[tuple[str, str, str, int | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.endpoint, row.attack, row.student, row.budget), []).append(row)
    return [_summary(group) for group in groups.values()]


def baseline_accuracy(rows: Sequence[Row], student: str, budget: int | None = None) -> float | None:
    """The no-API baseline's mean accuracy for this student on as many images.

    None when none stayed finite.
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
    """Per endpoint the attack (and student) with the highest mean uplift, ties to the first.

    Seeds whose loss was not finite do not count, nor do attacks that saw the network itself, nor
    smaller budgets, whose uplift is counted from a weaker baseline; an endpoint with nothing left
    has no entry.
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
