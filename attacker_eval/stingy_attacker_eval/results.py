"""Rows of an audit and their summaries. A broken attack never counts as protection."""

import statistics
from collections.abc import Collection, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from stingy_attacker_eval.errors import AuditError

WHITE_BOX = "white-box"
"""The mark in the label of an attack that reads the network itself."""

NO_ENDPOINT = "none"
"""The endpoint's name in rows of the no-API baseline."""

OWNER = "owner"
"""The attacker of a protocol that describes none. It owns the true labels of all its images."""


_Percent = Annotated[float, Field(ge=0, le=100)]
_Points = Annotated[float, Field(ge=-100, le=100)]
_Count = Annotated[int, Field(ge=0, le=2**62)]


class Row(BaseModel):
    """One student, trained once.

    attacker: the attacker's name in the configuration.
    queries: the images whose answers the student was trained on.
    accuracy, agreement, teacher_accuracy: percent of the test set; the latter two are None for
        the baseline, which has no teacher.
    class_agreement: the agreement on the test images of each true class; None for a class without
        test images.
    kl: mean KL divergence, in nats, of the student's probabilities from the teacher's on the test
        set, at temperature 1; None if the audit did not have the teacher's probabilities.
    transfer: percent of the adversarial examples made on the student that change the endpoint's
        top-1; None if they were not tried.
    uplift: points over the no-API baseline of the same attacker and student on as many images, mean
        over the seeds of the same group: those that choose, or those that are reported.
    finite: False if the loss was not finite, which is a broken attack.
    seconds: of the whole attack.
    budget: the images the attacker was limited to; None for all.
    trained_on: the endpoint whose student this is, None for its own. The student would have been
        trained on the same inputs, so it was trained once.
    commit: of the code that trained it; None outside a checkout, or if not recorded.
    threads: of the process that trained it; None if not recorded.
    predictions: digest of the student's top-1 for the test images, and the name of their file;
        None if they were not kept.
    measures: other numbers that the attack reports, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    endpoint: str
    defence: str
    attack: str
    student: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    queries: _Count
    accuracy: _Percent
    agreement: _Percent | None
    teacher_accuracy: _Percent | None
    uplift: _Points
    finite: bool
    seconds: Annotated[float, Field(ge=0)]
    budget: _Count | None = None
    trained_on: str | None = None
    commit: str | None = None
    threads: int | None = None
    attacker: str = OWNER
    class_agreement: tuple[_Percent | None, ...] | None = None
    kl: float | None = None
    transfer: _Percent | None = None
    predictions: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    measures: dict[str, float] = {}


class Summary(BaseModel):
    """One attack on one endpoint with one student, over the seeds whose loss stayed finite.

    Only the seeds that are reported count. Seeds that choose the best attack are in
    `selection_mean` alone.

    n: the number of those seeds.
    accuracy_mean, agreement_mean: percent; uplift_mean: points; None if n is 0.
    accuracy_spread, uplift_spread: sample standard deviations; None if n is below 2.
    queries: the most that a run used.
    runs: all seeds, those whose loss was not finite included.
    gains: runs that ended above the baseline.
    budget, trained_on, attacker: as in the rows.
    selection_mean: mean uplift over the seeds that choose; None if there are none.
    class_agreement, kl_mean, transfer_mean: means of the rows' measures; None if not measured.
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
    attacker: str = OWNER
    selection_mean: float | None = None
    class_agreement: tuple[float | None, ...] | None = None
    kl_mean: float | None = None
    transfer_mean: float | None = None

    @property
    def shown(self) -> str:
        """The attack's name in a table, with its budget, and its student's endpoint if another."""
        images = "" if self.budget is None else f", {self.budget:,} images"
        is_copy = self.trained_on not in (None, self.endpoint)
        origin = f" (as on {self.trained_on})" if is_copy else ""
        return f"{self.attack}{images}{origin}"

    @property
    def attack_name(self) -> str:
        """The attack without its settings."""
        return attack_name(self.attack)

    @property
    def white_box(self) -> bool:
        """True if the attack reads the network itself, as its label says."""
        return WHITE_BOX in self.attack.partition("[")[2].rstrip("]").split(",")

    @property
    def least_agreement(self) -> float | None:
        """The agreement on the class where it is lowest, in percent; None if not measured."""
        known = [value for value in self.class_agreement or () if value is not None]
        return min(known, default=None)


def attack_name(label: str) -> str:
    """Return the name in an attack's label, without the settings."""
    return label.partition("[")[0]


def summarise(rows: Sequence[Row], *, selection_seeds: Collection[int] = ()) -> list[Summary]:
    """Return one summary per attacker, endpoint, attack, student and budget.

    They are in the order of their first rows. A group without a reported seed has no summary.

    selection_seeds: the seeds that choose the best attack and are not reported.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = row.attacker, row.endpoint, row.attack, row.student, row.budget
        groups.setdefault(key, []).append(row)
    found = []
    for group in groups.values():
        choosing = [row for row in group if row.seed in selection_seeds]
        reported = [row for row in group if row.seed not in selection_seeds]
        if reported:
            found.append(_summary(reported, choosing))
    return found


def baseline_accuracy(
    rows: Sequence[Row],
    student: str,
    budget: int | None = None,
    *,
    attacker: str = OWNER,
    seeds: Collection[int] | None = None,
) -> float | None:
    """Return the no-API baseline's mean accuracy for this attacker and student on as many images.

    seeds: the seeds to take; None for all.

    None if no run of it stayed finite.
    """
    wanted = NO_ENDPOINT, attacker, student, budget
    return _mean(
        [
            row.accuracy
            for row in rows
            if (row.endpoint, row.attacker, row.student, row.budget) == wanted
            and row.finite
            and (seeds is None or row.seed in seeds)
        ]
    )


def count_anew(row: Row, rows: Sequence[Row], *, selection_seeds: Collection[int]) -> Row:
    """Return the row with its uplift over the mean of its group's baselines.

    rows: of all seeds: those that choose the best attack, and those that are reported.

    Raises AuditError if no baseline of its group stayed finite.
    """
    chooses = row.seed in selection_seeds
    seeds = {other.seed for other in rows if (other.seed in selection_seeds) == chooses}
    base = baseline_accuracy(rows, row.student, row.budget, attacker=row.attacker, seeds=seeds)
    if base is None:
        kind = "seed that chooses" if chooses else "reported seed"
        raise AuditError(
            f"expected a finite no-API baseline of {row.attacker} for {row.student} with a {kind}, "
            "got none: train it with more seeds, or at a lower learning rate"
        )
    uplift = 0.0 if row.endpoint == NO_ENDPOINT else row.accuracy - base
    return row.model_copy(update={"uplift": uplift})


def best_attacks(summaries: Sequence[Summary]) -> dict[str, Summary]:
    """Return per endpoint the attack (and student) with the highest mean uplift.

    If some seeds choose, the mean is over those seeds. Among equals it is the first. Seeds whose
    loss was not finite do not count, nor do white-box attacks. Smaller budgets do not count,
    because their uplift is counted from a weaker baseline. An endpoint without such an attack has
    no entry.

    summaries: those of one attacker.
    """
    best: dict[str, Summary] = {}
    for summary in candidates(summaries):
        if summary.endpoint == NO_ENDPOINT or summary.budget is not None:
            continue
        leader = best.get(summary.endpoint)
        if leader is None or choice(summary) > choice(leader):
            best[summary.endpoint] = summary
    return best


def candidates(summaries: Sequence[Summary]) -> list[Summary]:
    """Return the summaries that a choice of the best may take.

    They have a finite mean and are no white-box attack. If some seeds choose, they also have a
    finite mean over those.

    An attack with a finite loss for half of the seeds or fewer is left out where another has more.
    Else one lucky seed of a broken attack would stand for what the others measured.
    """
    are_chosen = any(summary.selection_mean is not None for summary in summaries)
    found = [
        summary
        for summary in summaries
        if summary.uplift_mean is not None
        and not summary.white_box
        and (summary.selection_mean is not None or not are_chosen)
    ]
    seeds = max((summary.runs for summary in found), default=0)
    whole = {(s.endpoint, s.budget) for s in found if 2 * s.n > seeds}
    return [s for s in found if 2 * s.n > seeds or (s.endpoint, s.budget) not in whole]


def choice(summary: Summary) -> float:
    """Return the uplift by which the best is chosen: over the choosing seeds, if there are any."""
    found = summary.uplift_mean if summary.selection_mean is None else summary.selection_mean
    return found or 0.0


def _summary(rows: Sequence[Row], choosing: Sequence[Row]) -> Summary:
    first, finite = rows[0], [row for row in rows if row.finite]
    accuracies = [row.accuracy for row in finite]
    uplifts = [row.uplift for row in finite]
    by_class = [row.class_agreement for row in finite if row.class_agreement is not None]
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
        attacker=first.attacker,
        selection_mean=_mean([row.uplift for row in choosing if row.finite]),
        class_agreement=_means_by_class(by_class) if by_class else None,
        kl_mean=_mean([row.kl for row in finite if row.kl is not None]),
        transfer_mean=_mean([row.transfer for row in finite if row.transfer is not None]),
    )


def _means_by_class(rows: Sequence[Sequence[float | None]]) -> tuple[float | None, ...]:
    columns = zip(*rows, strict=True)
    return tuple(_mean([value for value in column if value is not None]) for column in columns)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
