"""The question whether a list teaches an attacker more than its labels alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from stingy_attacker_eval.attacks import Attack
from stingy_attacker_eval.report.significance import (
    LEVEL,
    Difference,
    difference,
    holm,
    identity,
)
from stingy_attacker_eval.report_schema import EndpointResult, SkippedAttack
from stingy_attacker_eval.results import (
    NO_ENDPOINT,
    Row,
    Summary,
    best_attacks,
    candidates,
    choice,
)
from stingy_clients.utility import Utility

_ALWAYS = 100.0  # percent
_EVERYTHING = "open"


class Outcome(StrEnum):
    """The outcome of the comparison of a list with labels alone."""

    MORE = "more than labels alone"
    """The gap is above 0."""
    NO_MORE = "no more than labels alone"
    """The gap is below the margin."""
    UNCLEAR = "undecided beside labels alone"
    """Neither was shown."""
    UNPROVEN = "undecided beside labels alone, because no list was shown to teach more"
    """The gap is below the margin, but the audit cannot show a gap where there is one."""
    UNTRIED = "labels alone were not tried in the same way"
    """One side alone had true labels, or one side had fewer answers."""
    ONE_SEED = "one seed"


@dataclass(frozen=True)
class LabelOnlyBaseline:
    """The uplift from an endpoint's labels alone, and the gap to the best attack on its list.

    reader: the best attack that reads more than the labels of this endpoint.
    baseline: the best attack with such labels alone.
    gap: the accuracy of `reader` less that of `baseline`.
    p_more: p-value of a gap of at most 0, after Holm over the lists of this attacker.
    p_no_more: p-value of a gap of at least the margin, likewise.
    margin: in points.
    power: the chance to find a gap below the margin if it is 0, at the strictest of Holm's levels.
    is_open: True if the endpoint's policy withholds nothing.
    utility: that of the answers for its clients.
    skipped: attacks that could not run on the endpoint although the attacker could make them.
    """

    endpoint: str
    reader: Summary
    baseline: Summary
    gap: Difference
    outcome: Outcome
    p_more: float
    p_no_more: float
    margin: float
    power: float
    is_open: bool
    utility: Utility
    skipped: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """`+1.0 (+0.58 to +1.42, n = 5) by soft_label over label_only: more`, or why not."""
        if self.outcome is Outcome.UNTRIED:
            return self.outcome
        found = "" if self.outcome is Outcome.ONE_SEED else f": {self.outcome_text}"
        return f"{self.gap.text} by {self.attacks_text}{found}"

    @property
    def attacks_text(self) -> str:
        """The two attacks, as `soft_label over label_only`."""
        is_other = self.baseline.endpoint not in (NO_ENDPOINT, self.endpoint)
        where = f" on {self.baseline.endpoint}" if is_other else ""
        return f"{self.reader.attack} over {self.baseline.attack}{where}"

    @property
    def outcome_text(self) -> str:
        """The outcome with its power, as `less than 1 more, power 0.94`."""
        left = f"; {', '.join(self.skipped)} could not run" if self.skipped else ""
        return {
            Outcome.MORE: "more",
            Outcome.NO_MORE: f"less than {self.margin:g} more, power {self.power:.2f}{left}",
            Outcome.UNCLEAR: f"undecided, power {self.power:.2f}",
            Outcome.UNPROVEN: "undecided: no list taught more",
        }.get(self.outcome, self.outcome)


def label_only_baselines(
    endpoints: Sequence[EndpointResult],
    summaries: Sequence[Summary],
    rows: Sequence[Row],
    attacks: Mapping[str, Attack],
    *,
    margin: float,
    test_images: int,
    is_baseline_alike: bool = True,
    skipped: Sequence[SkippedAttack] = (),
) -> tuple[LabelOnlyBaseline, ...]:
    """Compare the best attack on each list with the best attack on labels alone.

    Only endpoints that give more than a label have a list. The baseline has the student and the
    images of the endpoint's best attack. It is the best of three: training without the API
    (`no_api`); attacks on this endpoint that read labels only; and all attacks on endpoints that
    sold equal labels and nothing else. An endpoint without an attack on either side is left out.

    Two tests decide, both at 5 % over all lists together (Holm): is the gap above 0, and is it
    below the margin? Comparisons of the same students count as one test. A gap below the margin
    proves nothing in an audit that is not decisive (`is_decisive`).

    summaries, rows: those of one attacker, of the reported seeds.
    attacks: by their labels in the report. Nothing is known of a missing attack.
    margin: in points.
    test_images, is_baseline_alike: as in `difference`.
    skipped: the attacks of this attacker that could not run.
    """
    subtract = partial(
        difference, rows=rows, test_images=test_images, is_baseline_alike=is_baseline_alike
    )
    pairs = [
        pair
        for item in endpoints
        if gives_a_list(item)
        and (pair := _pair(item, endpoints, summaries, rows, attacks, subtract)) is not None
    ]
    tested = [pair for pair in pairs if pair.is_tested]
    keys = list(dict.fromkeys(pair.key for pair in tested))
    gaps = [next(pair.gap for pair in tested if pair.key == key) for key in keys]
    more = dict(zip(keys, holm([gap.p_above() for gap in gaps]), strict=True))
    no_more = dict(zip(keys, holm([gap.p_below(margin) for gap in gaps]), strict=True))
    found = tuple(
        LabelOnlyBaseline(
            endpoint=pair.endpoint.name,
            reader=pair.reader,
            baseline=pair.baseline,
            gap=pair.gap,
            outcome=_outcome(pair, more.get(pair.key, 1.0), no_more.get(pair.key, 1.0)),
            p_more=more.get(pair.key, 1.0),
            p_no_more=no_more.get(pair.key, 1.0),
            margin=margin,
            power=pair.gap.power(margin, level=LEVEL / max(1, len(keys))),
            is_open=pair.endpoint.policy == _EVERYTHING,
            utility=pair.endpoint.utility,
            skipped=tuple(
                item.attack
                for item in skipped
                if item.endpoint == pair.endpoint.name and not item.beyond
            ),
        )
        for pair in pairs
    )
    return found if is_decisive(found) else _without_proof(found)


def is_decisive(baselines: Sequence[LabelOnlyBaseline]) -> bool:
    """Return whether the audit was able to show that a list teaches more than labels alone.

    An open endpoint teaches more for certain. If the audit cannot show that of its open endpoints,
    its other outcomes prove nothing. Without an open endpoint, any list will do.
    """
    return any(item.outcome is Outcome.MORE for item in controls(baselines))


def controls(baselines: Sequence[LabelOnlyBaseline]) -> Sequence[LabelOnlyBaseline]:
    """Return the comparisons that must show a gap for the others to prove anything."""
    return [item for item in baselines if item.is_open] or baselines


def _without_proof(found: Sequence[LabelOnlyBaseline]) -> tuple[LabelOnlyBaseline, ...]:
    """Return the comparisons of an audit that is not decisive: no list is below the margin."""
    has_more = any(item.outcome is Outcome.MORE for item in found)
    instead = Outcome.UNCLEAR if has_more else Outcome.UNPROVEN
    return tuple(
        replace(item, outcome=instead) if item.outcome is Outcome.NO_MORE else item
        for item in found
    )


@dataclass(frozen=True)
class _Pair:
    """The two sides of one comparison.

    labels_had_as_much, lists_had_as_much: whether that side had the inputs of the other.
    key: equal for pairs of the same students.
    """

    endpoint: EndpointResult
    reader: Summary
    baseline: Summary
    gap: Difference
    labels_had_as_much: bool
    lists_had_as_much: bool
    key: tuple[object, ...]

    @property
    def is_tested(self) -> bool:
        return self.gap.error is not None and self.labels_had_as_much


def _pair(
    item: EndpointResult,
    endpoints: Sequence[EndpointResult],
    summaries: Sequence[Summary],
    rows: Sequence[Row],
    attacks: Mapping[str, Attack],
    subtract: Callable[[Summary, Summary], Difference],
) -> _Pair | None:
    """Choose both sides of an endpoint's comparison; None if one of them has no attack."""
    best = best_attacks(summaries).get(item.name)
    if best is None:
        return None
    label_endpoints = _label_endpoints(item, endpoints)
    no_api: list[Summary] = []
    on_labels: list[Summary] = []
    on_list: list[Summary] = []
    for s in candidates(summaries):
        if (s.student, s.budget) != (best.student, best.budget):
            continue
        if s.endpoint == NO_ENDPOINT:
            no_api.append(s)
        elif s.endpoint in label_endpoints:
            on_labels.append(s)
        elif s.endpoint == item.name:
            (on_list if _reads_list(s, attacks) else on_labels).append(s)
    if not on_labels or not on_list:
        return None
    reader = max(on_list, key=choice)
    # Among equals, prefer the endpoint's own, because equal labels share one student.
    baseline = max(on_labels + no_api, key=lambda s: (choice(s), s.endpoint == item.name))
    return _Pair(
        endpoint=item,
        reader=reader,
        baseline=baseline,
        gap=subtract(reader, baseline),
        labels_had_as_much=_had_as_much(on_labels, reader, attacks),
        lists_had_as_much=_had_as_much(on_list, baseline, attacks),
        key=(identity(reader, rows), identity(baseline, rows)),
    )


def _had_as_much(side: Sequence[Summary], other: Summary, attacks: Mapping[str, Attack]) -> bool:
    """Return whether an attack of one side had the inputs of the other side's best attack.

    Those are as many answers, and true labels if that attack used them.
    """
    needs_labels = _uses_true_labels(other, attacks)
    return any(
        s.queries >= other.queries and (_uses_true_labels(s, attacks) or not needs_labels)
        for s in side
    )


def _outcome(pair: _Pair, p_more: float, p_no_more: float) -> Outcome:
    if pair.gap.error is None:
        return Outcome.ONE_SEED
    if not pair.labels_had_as_much:
        return Outcome.UNTRIED
    if p_more <= LEVEL:
        return Outcome.MORE
    if not pair.lists_had_as_much:
        return Outcome.UNTRIED
    return Outcome.NO_MORE if p_no_more <= LEVEL else Outcome.UNCLEAR


def gives_a_list(endpoint: EndpointResult) -> bool:
    """Return whether an endpoint's answers contain more than their top-1.

    A list that never has the true class where the top-1 is wrong is no better than labels. Where
    the top-1 is always right, the number of its classes decides.
    """
    kept = endpoint.utility
    return kept.top5 > kept.top1 or (endpoint.support > 1 and kept.top1 == _ALWAYS)


def _label_endpoints(endpoint: EndpointResult, endpoints: Sequence[EndpointResult]) -> list[str]:
    """Return the endpoints that sold the same labels as this one, and one class an answer."""
    return [
        other.name for other in endpoints if other.labels == endpoint.labels and other.support == 1
    ]


def _reads_list(summary: Summary, attacks: Mapping[str, Attack]) -> bool:
    """Return whether the attack reads more than labels; assume so if it is not installed here."""
    attack = attacks.get(summary.attack)
    return attack is None or attack.reads_list


def _uses_true_labels(summary: Summary, attacks: Mapping[str, Attack]) -> bool:
    """Return whether the attack uses true labels; assume so if it is not installed here."""
    attack = attacks.get(summary.attack)
    return attack is None or attack.uses_true_labels
