"""Two audits beside each other: what each endpoint leaks now, and whether that is more."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.formatting import readable, with_errors
from stingy_attacker_eval.report.significance import Difference
from stingy_attacker_eval.report.verdicts import Leak, attacker_verdicts
from stingy_attacker_eval.report_schema import AuditConfig, Schedule

_DIGESTS = {
    "train_digest": "training images",
    "test_digest": "test images",
    "train_labels_digest": "training labels",
    "test_labels_digest": "test labels",
}


class Change(StrEnum):
    """The change of one endpoint's largest uplift, by its 95 % interval.

    UNLIKE: an attack broke or is missing in one audit, so that the change may be its absence.
    """

    MORE = "regression"
    LESS = "improvement"
    NONE = "no change shown"
    UNLIKE = "other attacks"
    UNKNOWN = "no error"

    @property
    def shape(self) -> str:
        """The class of its colour and shape in a figure."""
        return {"regression": "more", "improvement": "same"}.get(self, "unclear")


@dataclass(frozen=True)
class Pair:
    """One attacker's best attack on one endpoint, before and after.

    delta: points after less points before.
    error: one standard error of delta; None if a side has one seed. Both audits count as
        independent, which makes the error too large where they share seeds.
    """

    attacker: str
    before: Leak
    after: Leak
    delta: float
    error: float | None
    change: Change

    @property
    def text(self) -> str:
        """The change with two errors, as `+1.2 ±0.4: regression`."""
        return f"{with_errors(self.delta, self.error)}: {self.change}"


@dataclass(frozen=True)
class Comparison:
    """Two audits of the same data, students and training.

    pairs: what both audits have; regressions first, then in order of the endpoints.
    only_before, only_after: attackers and endpoints of one audit alone.
    """

    before: Audit
    after: Audit
    pairs: tuple[Pair, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def regressions(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.change is Change.MORE)

    @property
    def judged(self) -> tuple[Pair, ...]:
        """The pairs that have an error and the attacks that a verdict needs."""
        unjudged = (Change.UNLIKE, Change.UNKNOWN)
        return tuple(pair for pair in self.pairs if pair.change not in unjudged)


def compare_audits(before: Audit, after: Audit) -> Comparison:
    """Pair the endpoints of two audits by their names, for attackers that own the same.

    Raises AuditError if data, students or training differ, with every difference, or if the audits
    share no endpoint.
    """
    faults = list(_differences(before.report.config, after.report.config))
    if faults:
        raise AuditError(
            "expected two audits of the same data, students and training, got "
            + "; ".join(faults)
            + ": run one of them again with the other's protocol"
        )
    old, new = _by_name(before), _by_name(after)
    pairs = [_pair(name[0], old[name], new[name]) for name in old if name in new]
    if not pairs:
        raise AuditError(
            "expected an endpoint with a finite attack in both audits, by the same name and for "
            f"the same attacker, got {_listed(old) or 'none'} and {_listed(new) or 'none'}"
        )
    order = list(Change)
    several = len({attacker for attacker, _ in (*old, *new)}) > 1
    return Comparison(
        before,
        after,
        tuple(sorted(pairs, key=lambda pair: order.index(pair.change))),
        tuple(_title(name, several) for name in old if name not in new),
        tuple(_title(name, several) for name in new if name not in old),
    )


def _differences(before: AuditConfig, after: AuditConfig) -> Iterator[str]:
    for name, title in _DIGESTS.items():
        left, right = getattr(before, name), getattr(after, name)
        if left != right and None not in (left, right):
            yield f"other {title}"
    if set(before.students) != set(after.students):
        left, right = (", ".join(map(readable, each.students)) for each in (before, after))
        yield f"other students ({left} and {right})"
    for name in Schedule.model_fields:
        left, right = getattr(before, name), getattr(after, name)
        if left != right:
            yield f"other {name} ({left} and {right})"


@dataclass(frozen=True)
class _Side:
    """One audit's leak, with its attacks and students.

    tried: those that have a finite loss for any seed.
    whole: those that have one for all seeds.
    """

    leak: Leak
    tried: frozenset[tuple[str, str]]
    whole: frozenset[tuple[str, str]]


def _by_name(audit: Audit) -> dict[tuple[str, str], _Side]:
    """Return the sides by the attacker's possessions, as text, and the endpoint's name.

    Where several attackers own the same, their names are added.
    """
    found: dict[tuple[str, str], _Side] = {}
    counts = Counter(view.attacker.text for view in audit.views)
    for item in attacker_verdicts(audit):
        attacker = item.view.attacker
        is_only = counts[attacker.text] == 1
        owner = attacker.text if is_only else f"{attacker.text}, {attacker.name}"
        found.update({(owner, leak.endpoint.name): _side(item.view, leak) for leak in item.leaks})
    return found


def _side(view: Audit, leak: Leak) -> _Side:
    config = view.report.config
    own = [
        s
        for s in view.summaries
        if (s.endpoint, s.budget) == (leak.endpoint.name, None) and s.n and not s.white_box
    ]
    whole = [
        s
        for s in own
        if s.n == s.runs >= len(config.seeds)
        and (s.selection_mean is not None or not config.selection_seeds)
    ]
    tried, finite = (frozenset((s.attack, s.student) for s in each) for each in (own, whole))
    return _Side(leak, tried, finite)


def _pair(attacker: str, old: _Side, new: _Side) -> Pair:
    before, after = old.leak, new.leak
    delta = after.uplift.mean - before.uplift.mean
    errors = before.uplift.error, after.uplift.error
    error = None if None in errors else math.hypot(*(value or 0.0 for value in errors))
    change = _change(delta, error, before.uplift, after.uplift)
    # An attack that is absent is no protection, and one that is new has no earlier gain.
    is_absent = change is Change.LESS and not old.tried <= new.whole
    is_new = change is Change.MORE and (after.best.attack, after.best.student) not in old.whole
    change = Change.UNLIKE if is_absent or is_new else change
    return Pair(attacker, before, after, delta, error, change)


def _change(delta: float, error: float | None, before: Difference, after: Difference) -> Change:
    """Return the change by the 95 % interval of delta, with Satterthwaite's degrees of freedom."""
    if error is None:
        return Change.UNKNOWN
    parts = [((each.error or 0.0) ** 4, each.freedom or 1.0) for each in (before, after)]
    total = sum(part / freedom for part, freedom in parts)
    freedom = error**4 / total if total else 1.0
    if not Difference(delta, error, min(before.n, after.n), freedom).is_clear:
        return Change.NONE
    return Change.MORE if delta > 0 else Change.LESS


def _title(name: tuple[str, str], several: bool) -> str:
    """Return an endpoint's name, and the attacker's possessions if there are several attackers."""
    owner = f" ({readable(name[0])})" if several else ""
    return f"{readable(name[1])}{owner}"


def _listed(names: Iterable[tuple[str, str]]) -> str:
    return ", ".join(_title(name, several=True) for name in names)
