"""Two audits beside each other: what each endpoint leaks now, and whether that is more."""

import math
from collections.abc import Iterator
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
    """The change of one endpoint's largest uplift, by its 95 % interval."""

    MORE = "regression"
    LESS = "improvement"
    NONE = "no change shown"
    UNKNOWN = "one seed"

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


def _by_name(audit: Audit) -> dict[tuple[str, str], Leak]:
    """Return leaks by the attacker's possessions and the endpoint's name."""
    return {
        (item.view.attacker.text, leak.endpoint.name): leak
        for item in attacker_verdicts(audit)
        for leak in item.leaks
    }


def _pair(attacker: str, before: Leak, after: Leak) -> Pair:
    delta = after.uplift.mean - before.uplift.mean
    errors = before.uplift.error, after.uplift.error
    error = None if None in errors else math.hypot(*(value or 0.0 for value in errors))
    change = _change(delta, error, before.uplift, after.uplift)
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


def _listed(names: dict[tuple[str, str], Leak]) -> str:
    return ", ".join(_title(name, several=True) for name in names)
