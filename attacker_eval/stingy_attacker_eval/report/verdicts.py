"""The verdicts of an audit: what leaks, to which attacker, at what price."""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum

from stingy_attacker_eval.report.analysis import Audit, unanswered
from stingy_attacker_eval.report.formatting import (
    cost,
    endpoint_title,
    readable,
    share_text,
    signed,
)
from stingy_attacker_eval.report.label_only_baseline import Outcome, gives_a_list
from stingy_attacker_eval.report.label_only_sentences import label_only_sentence
from stingy_attacker_eval.report.significance import LEVEL, Difference, holm, identity
from stingy_attacker_eval.report_schema import Attacker, EndpointResult
from stingy_attacker_eval.results import Summary


class Kind(StrEnum):
    """The kinds of attackers, by the true labels that they own."""

    ALL = "with true labels"
    FEW = "with few true labels"
    NONE = "with no true label"


class Mark(StrEnum):
    """An endpoint's answers beside labels alone, as one attacker's comparison ended."""

    MORE = "more than labels"
    NO_MORE = "no more than labels"
    LABELS = "labels alone"
    """The endpoint gives no list."""
    UNCLEAR = "undecided"
    UNCOMPARED = "not compared"

    @property
    def shape(self) -> str:
        """The class of its colour and shape in a figure: more, same or unclear."""
        if self is Mark.MORE:
            return "more"
        return "same" if self in (Mark.NO_MORE, Mark.LABELS) else "unclear"


@dataclass(frozen=True)
class Leak:
    """The best attack of one attacker on one endpoint.

    baseline: the no-API baseline of the same student.
    uplift: the difference of the two.
    labels: the uplift in points of the best attack on labels alone; None if none was compared.
    are_labels_measured: True if the 95 % interval of that uplift is above 0.
    is_measured: True if the uplift is above 0 at 2.5 %, one-sided, over all endpoints of the
        attacker together (Holm). Of one endpoint, the 95 % interval is then above 0.
    """

    endpoint: EndpointResult
    best: Summary
    baseline: Summary
    uplift: Difference
    labels: float | None
    are_labels_measured: bool
    mark: Mark
    is_measured: bool

    @property
    def gap(self) -> float:
        """Points between the teacher and the attacker's student without the API."""
        return self.endpoint.teacher_accuracy - (self.baseline.accuracy_mean or 0.0)

    @property
    def share(self) -> float | None:
        """The uplift in percent of the gap; None if the teacher is no better than the student."""
        return self.share_of(self.uplift.mean)

    def share_of(self, points: float) -> float | None:
        """Return points in percent of the gap; None without a gap."""
        return 100 * points / self.gap if self.gap > 0 else None

    @property
    def no_error(self) -> str:
        """The reason, in words, why the uplift has no error."""
        if self.best.n > 1 and self.baseline.n == 1:
            return "; its baseline without the API is finite with one seed, which gives no error"
        return " with one seed, which gives no error"

    @property
    def title(self) -> str:
        return endpoint_title(self.endpoint.name, self.endpoint.defence)


@dataclass(frozen=True)
class AttackerVerdict:
    """The verdict on one attacker.

    leaks: one for each endpoint with a best attack.
    """

    view: Audit
    leaks: tuple[Leak, ...]

    @property
    def kind(self) -> Kind:
        return attacker_kind(self.view.attacker)

    @property
    def worst(self) -> Leak | None:
        """The largest uplift that was measured; else the largest of all; None without any."""
        return max(self.leaks, key=_size, default=None)

    @property
    def least(self) -> Leak | None:
        """The smallest uplift of all endpoints."""
        return min(self.leaks, key=lambda leak: leak.uplift.mean, default=None)


def attacker_kind(attacker: Attacker) -> Kind:
    """Return the kind of an attacker."""
    if attacker.labelled == 1:
        return Kind.ALL
    return Kind.FEW if attacker.labelled else Kind.NONE


def attacker_verdicts(audit: Audit) -> tuple[AttackerVerdict, ...]:
    """Return one verdict for each attacker."""
    return tuple(AttackerVerdict(view, _leaks(view)) for view in audit.views)


def worst_by_kind(found: tuple[AttackerVerdict, ...]) -> tuple[AttackerVerdict, ...]:
    """Return, for each kind of attacker in the audit, the one that gained most."""
    chosen = []
    for kind in Kind:
        own = [item for item in found if item.kind is kind]
        if own:
            chosen.append(max(own, key=lambda item: _size(item.worst)))
    return tuple(chosen)


def headlines(audit: Audit) -> tuple[str, ...]:
    """Return one paragraph for each attacker: its largest uplift, and the worth of lists to it."""
    return tuple(headline(found) for found in attacker_verdicts(audit))


def headline(found: AttackerVerdict) -> str:
    """State in words what one attacker gained, at which price, and what lists are worth to it."""
    view, leak = found.view, found.worst
    who = f"An attacker with {readable(view.attacker.text)}"
    if leak is None:
        return f"{who}: {unanswered(view)}"
    attack = (
        f"{readable(leak.best.attack)} on {leak.title}, after {cost(leak.best.queries)} queries"
    )
    if leak.is_measured:
        share = (
            "" if leak.share is None else f", {share_text(leak.share)} of the gap to the teacher"
        )
        said = (
            f"{who} gains {leak.uplift.text} points over training without the API{share}, by the "
            f"best attack of this audit, {attack}."
        )
    elif leak.uplift.error is None:
        said = (
            f"{who} gained {signed(leak.uplift.mean)} points{leak.no_error}, "
            f"by the best attack of this audit, {attack}."
        )
    else:
        said = (
            f"{who} was not shown to gain anything over training without the API. The best attack "
            f"of this audit, {attack}, gained {leak.uplift.text} points."
        )
    lists = label_only_sentence(view.label_baselines, view.list_endpoints)
    return f"{said} {lists}".rstrip()


def _leaks(view: Audit) -> tuple[Leak, ...]:
    endpoints = [item for item in view.endpoints if item.name in view.best]
    uplifts = {item.name: view.uplift(view.best[item.name]) for item in endpoints}
    measured = _measured(view, uplifts)
    labels = {item.name: _labels_uplift(view, item) for item in endpoints}
    return tuple(
        Leak(
            endpoint=item,
            best=view.best[item.name],
            baseline=view.baseline(view.best[item.name].student),
            uplift=uplifts[item.name],
            labels=None if (own := labels[item.name]) is None else own.mean,
            are_labels_measured=own is not None and own.is_clear and own.mean > 0,
            mark=_mark(view, item),
            is_measured=item.name in measured,
        )
        for item in endpoints
    )


def _measured(view: Audit, uplifts: dict[str, Difference]) -> set[str]:
    """Return the endpoints whose uplift is above 0. Equal students count as one test."""
    keys: dict[str, Hashable] = {
        name: identity(view.best[name], view.rows) or name for name in uplifts
    }
    distinct = {key: uplifts[name] for name, key in keys.items()}
    p_values = holm([min(1.0, 2 * uplift.p_above()) for uplift in distinct.values()])
    adjusted = dict(zip(distinct, p_values, strict=True))
    return {name for name, key in keys.items() if adjusted[key] < LEVEL}


def _labels_uplift(view: Audit, endpoint: EndpointResult) -> Difference | None:
    if not gives_a_list(endpoint):
        return view.uplift(view.best[endpoint.name])
    found = [item for item in view.label_baselines if item.endpoint == endpoint.name]
    return view.uplift(found[0].baseline) if found else None


def _mark(view: Audit, endpoint: EndpointResult) -> Mark:
    if not gives_a_list(endpoint):
        return Mark.LABELS
    found = [item.outcome for item in view.label_baselines if item.endpoint == endpoint.name]
    if not found or found[0] in (Outcome.UNTRIED, Outcome.ONE_SEED):
        return Mark.UNCOMPARED
    if found[0] is Outcome.MORE:
        return Mark.MORE
    return Mark.NO_MORE if found[0] is Outcome.NO_MORE else Mark.UNCLEAR


def _size(leak: Leak | None) -> tuple[float, ...]:
    """Return the rank of a leak: measured before unmeasured, then by its points."""
    if leak is None:
        return (-1.0, 0.0)
    return float(leak.is_measured), leak.uplift.mean
