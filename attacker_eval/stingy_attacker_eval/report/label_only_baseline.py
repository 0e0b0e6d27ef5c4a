"""The question whether a list teaches an attacker more than its labels alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from stingy_attacker_eval.attacks import Attack
from stingy_attacker_eval.report.formatting import percent, signed
from stingy_attacker_eval.report.significance import Difference, difference
from stingy_attacker_eval.report_schema import EndpointResult
from stingy_attacker_eval.results import NO_ENDPOINT, Row, Summary, best_attacks
from stingy_attacker_eval.utility import Utility

_EVERYTHING = "open"


class Outcome(StrEnum):
    """Whether a list teaches more than labels alone."""

    MORE = "more than labels alone"
    """By over two standard errors."""
    NO_MORE = "no more than labels alone"
    """Within one standard error."""
    UNCLEAR = "cannot be told apart from labels alone"
    """Between the two."""
    UNTRIED = "labels alone were not tried in the same way"
    """True labels on one side alone, or fewer answers than the best attack had."""
    ONE_SEED = "one seed"


@dataclass(frozen=True)
class LabelOnlyBaseline:
    """The best result from an endpoint's labels alone, beside that of its best attack.

    best: the best attack on the endpoint.
    baseline: the best that was got with such labels alone.
    gap: the accuracy of `best` less that of `baseline`.
    is_open: whether the endpoint's policy lets everything out.
    utility: what its clients keep.
    """

    endpoint: str
    best: Summary
    baseline: Summary
    gap: Difference
    outcome: Outcome
    is_open: bool
    utility: Utility

    @property
    def text(self) -> str:
        """`+1.0 (error 0.21, n = 3) over label_only`, or why there is no comparison."""
        if self.outcome is Outcome.UNTRIED:
            return self.outcome
        is_other = self.baseline.endpoint not in (NO_ENDPOINT, self.endpoint)
        where = f" on {self.baseline.endpoint}" if is_other else ""
        return f"{self.gap.text} over {self.baseline.attack}{where}"


def label_only_baselines(
    endpoints: Sequence[EndpointResult],
    summaries: Sequence[Summary],
    rows: Sequence[Row],
    attacks: Mapping[str, Attack],
) -> tuple[LabelOnlyBaseline, ...]:
    """Compare the best attack with labels alone, for every endpoint that gives more than a label.

    The baseline is the best of three, with the student and the images of the best attack: what
    the attacker has without the API (`no_api`); attacks on this endpoint that read labels only;
    and all attacks on endpoints that sold equal labels and nothing else. An endpoint without
    anything to compare with is left out.

    attacks: by their labels in the report; of one that is missing nothing is known.
    """
    best = best_attacks(summaries)
    found = []
    for item in endpoints:
        name = item.name
        if name not in best or not gives_a_list(item):
            continue
        label_endpoints = _label_endpoints(item, endpoints)
        no_api: list[Summary] = []
        label_attacks: list[Summary] = []
        list_attacks: list[Summary] = []
        for s in summaries:
            if not _is_comparable(s, best[name]):
                continue
            if s.endpoint == NO_ENDPOINT:
                no_api.append(s)
            elif s.endpoint in label_endpoints:
                label_attacks.append(s)
            elif s.endpoint == name:
                (label_attacks if _reads_labels_only(s, attacks) else list_attacks).append(s)
        if not label_attacks:
            continue
        # Of equals the endpoint's own: endpoints that sold equal labels share a student.
        baseline = max(
            label_attacks + no_api, key=lambda s: (s.uplift_mean or 0.0, s.endpoint == name)
        )
        gap = difference(best[name], baseline, rows)
        outcome = _outcome(gap)
        is_fair = _labels_had_as_much(best[name], label_attacks, attacks) and (
            outcome is Outcome.MORE or _lists_had_as_much(baseline, list_attacks, attacks)
        )
        if outcome is not Outcome.ONE_SEED and not is_fair:
            outcome = Outcome.UNTRIED
        is_open = item.policy == _EVERYTHING
        found.append(
            LabelOnlyBaseline(name, best[name], baseline, gap, outcome, is_open, item.utility)
        )
    return tuple(found)


def _labels_had_as_much(
    best: Summary, label_attacks: Sequence[Summary], attacks: Mapping[str, Attack]
) -> bool:
    """Whether labels had what the best attack had: true labels beside them, as many answers."""
    with_true = [s for s in label_attacks if _uses_true_labels(s, attacks)]
    like = with_true if _uses_true_labels(best, attacks) else label_attacks
    return any((s.queries or 0) >= (best.queries or 0) for s in like)


def _lists_had_as_much(
    baseline: Summary, list_attacks: Sequence[Summary], attacks: Mapping[str, Attack]
) -> bool:
    """Whether a list was read at all, and beside true labels where the best on labels had them."""
    return any(_uses_true_labels(s, attacks) for s in list_attacks) or (
        bool(list_attacks) and not _uses_true_labels(baseline, attacks)
    )


def label_only_sentence(
    baselines: Sequence[LabelOnlyBaseline], list_endpoints: Sequence[str]
) -> str:
    """The answer to: does any policy give a ranked list and teach no more than labels alone?

    list_endpoints: the endpoints that give one, compared or not.
    """
    if baselines and all(item.outcome is Outcome.ONE_SEED for item in baselines):
        return "One seed: whether a list teaches more than labels alone cannot be told."
    compared = [
        item for item in baselines if item.outcome not in (Outcome.UNTRIED, Outcome.ONE_SEED)
    ]
    left = [name for name in list_endpoints if name not in {item.endpoint for item in compared}]
    parts = [_decided(compared, of=len(list_endpoints))] if compared else []
    if left:
        parts.append(
            f"Not compared with labels alone: {', '.join(left)}, where the two were not tried in "
            "the same way: on more than one seed of both, with true labels beside both or "
            "neither, and labels for as many answers."
        )
    return " ".join(parts)


def _decided(baselines: Sequence[LabelOnlyBaseline], *, of: int) -> str:
    """What comparisons with labels alone say, of so many endpoints that give a list."""
    # Where what is known to teach more cannot be told from labels, holding means nothing.
    controls = [item for item in baselines if item.is_open] or baselines
    if not any(item.outcome is Outcome.MORE for item in controls):
        where = "not even where everything leaves" if controls[0].is_open else "on no endpoint"
        return (
            f"Whether a list teaches more than labels alone cannot be told here: {where} did the "
            "best attack gain more than labels by over two standard errors."
        )
    whole = "this audit" if len(baselines) == of else "this audit that was compared"
    closed = [item for item in baselines if not item.is_open]
    equal = [item for item in closed if item.outcome is Outcome.NO_MORE]
    if equal:
        unseen = 2 * max(item.gap.error or 0.0 for item in equal)
        return (
            "More than a label leaves, and no attack of this suite gained more from it than from "
            f"labels alone, within one standard error: {', '.join(map(_equal_text, equal))}; "
            f"that is {len(equal)} of {len(closed)} such endpoints that were compared, and up to "
            f"{percent(unseen)} points more (two standard errors) would have passed unseen."
        )
    unclear = [item for item in closed if item.outcome is Outcome.UNCLEAR]
    if unclear:
        return (
            f"No policy of {whole} was seen to give more than a label and to teach no more than "
            "labels alone; between one and two standard errors, and so not to be told apart: "
            f"{', '.join(map(_equal_text, unclear))}."
        )
    least = min(closed or baselines, key=lambda item: item.gap.mean)
    return (
        f"No policy of {whole} gives more than a label without teaching more than labels "
        f"alone: the closest, {least.endpoint}, taught {signed(least.gap.mean)} points more "
        f"({least.best.attack})."
    )


def _outcome(gap: Difference) -> Outcome:
    if gap.error is None:
        return Outcome.ONE_SEED
    if gap.mean <= gap.error:
        return Outcome.NO_MORE
    return Outcome.MORE if gap.is_clear else Outcome.UNCLEAR


def _equal_text(item: LabelOnlyBaseline) -> str:
    top1, top5 = percent(item.utility.top1), percent(item.utility.top5)
    return f"{item.endpoint} (top-1 {top1} %, first five {top5} %; {item.text})"


def gives_a_list(endpoint: EndpointResult) -> bool:
    """Return whether an endpoint's answers hold more than their top-1."""
    return endpoint.utility.top5 > endpoint.utility.top1


def _label_endpoints(endpoint: EndpointResult, endpoints: Sequence[EndpointResult]) -> list[str]:
    """Return the endpoints that sold the same labels as this one, and one class an answer."""
    return [
        other.name for other in endpoints if other.labels == endpoint.labels and other.support == 1
    ]


def _is_comparable(summary: Summary, best: Summary) -> bool:
    same = (summary.student, summary.budget) == (best.student, best.budget)
    return same and summary.uplift_mean is not None and not summary.white_box


def _reads_labels_only(summary: Summary, attacks: Mapping[str, Attack]) -> bool:
    attack = attacks.get(summary.attack)
    return attack is not None and attack.reads_top1_only


def _uses_true_labels(summary: Summary, attacks: Mapping[str, Attack]) -> bool:
    """As the attack says; one that is not installed here may."""
    attack = attacks.get(summary.attack)
    return attack is None or attack.uses_true_labels
