"""Honest clients against attackers: one point a policy, and whether any of them costs nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stingy_attacker_eval.attacks import Attack
from stingy_attacker_eval.report.formatting import percent, signed
from stingy_attacker_eval.report.significance import Difference, difference
from stingy_attacker_eval.results import NO_ENDPOINT, Summary, best_attacks
from stingy_attacker_eval.utility import Utility

_EVERYTHING = "open"


@dataclass(frozen=True)
class Point:
    """One endpoint: what its clients keep, and what the best attack got."""

    endpoint: str
    policy: str
    utility: Utility
    best: Summary


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
    """An endpoint's best attack against labels alone.

    baseline: the best that was got with such labels; gap: how much more the best attack got;
    is_open: whether everything leaves; utility: what its clients keep, None in reports of earlier
    versions.
    """

    endpoint: str
    best: Summary
    baseline: Summary
    gap: Difference
    outcome: Outcome
    is_open: bool = False
    utility: Utility | None = None

    @property
    def text(self) -> str:
        """`+1.0 (error 0.21, n = 3) over label_only`, or why it is not told."""
        if self.outcome is Outcome.UNTRIED:
            return self.outcome
        is_other = self.baseline.endpoint not in (NO_ENDPOINT, self.endpoint)
        where = f" on {self.baseline.endpoint}" if is_other else ""
        return f"{self.gap.text} over {self.baseline.attack}{where}"


def frontier(
    endpoints: Sequence[Mapping[str, Any]], summaries: Sequence[Summary]
) -> tuple[Point, ...]:
    """The points, for endpoints whose report tells what clients keep."""
    best = best_attacks(summaries)
    return tuple(
        Point(item["name"], item["policy"], Utility(**item["utility"]), best[item["name"]])
        for item in endpoints
        if item.get("utility") is not None and item["name"] in best
    )


def label_only_baselines(
    endpoints: Sequence[Mapping[str, Any]],
    summaries: Sequence[Summary],
    rows: Sequence[Mapping[str, Any]],
    attacks: Mapping[str, Attack],
) -> tuple[LabelOnlyBaseline, ...]:
    """For every endpoint that gives more than a label, its best attack against labels alone.

    Labels alone are the best of what the attacker owns already (`no_api`), of attacks here that
    read labels alone, and of all attacks on endpoints that sold the very same labels and nothing
    else; with the student and the images of the best attack. attacks: by their labels in the
    report; of one that is missing nothing is known. Where there is nothing to compare there is
    no baseline.
    """
    best = best_attacks(summaries)
    found = []
    for item in endpoints:
        name = item["name"]
        if name not in best or not gives_a_list(item):
            continue
        label_endpoints = _label_endpoints(item, endpoints)
        label_attacks, list_attacks, no_api = [], [], []
        for s in summaries:
            if not _is_comparable(s, best[name]):
                continue
            if s.endpoint == NO_ENDPOINT:
                no_api.append(s)
            elif s.endpoint in label_endpoints or (
                s.endpoint == name and _reads_labels_only(s, attacks)
            ):
                label_attacks.append(s)
            elif s.endpoint == name:
                list_attacks.append(s)
        if not label_attacks:
            continue
        # Of equals its own: endpoints that sold the same labels share a student.
        baseline = max(
            label_attacks + no_api, key=lambda s: (s.uplift_mean or 0.0, s.endpoint == name)
        )
        gap = difference(best[name], baseline, rows)
        outcome = _outcome(gap)
        fair = _labels_had_as_much(best[name], label_attacks, attacks) and (
            outcome is Outcome.MORE or _lists_had_as_much(baseline, list_attacks, attacks)
        )
        if outcome is not Outcome.ONE_SEED and not fair:
            outcome = Outcome.UNTRIED
        client_utility = None if item.get("utility") is None else Utility(**item["utility"])
        is_open = item["policy"] == _EVERYTHING
        found.append(
            LabelOnlyBaseline(name, best[name], baseline, gap, outcome, is_open, client_utility)
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
    if baselines and all(baseline.outcome is Outcome.ONE_SEED for baseline in baselines):
        return "One seed: whether a list teaches more than labels alone cannot be told."
    compared = [f for f in baselines if f.outcome not in (Outcome.UNTRIED, Outcome.ONE_SEED)]
    left = [
        name for name in list_endpoints if name not in {baseline.endpoint for baseline in compared}
    ]
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
    controls = [baseline for baseline in baselines if baseline.is_open] or baselines
    if not any(baseline.outcome is Outcome.MORE for baseline in controls):
        where = "not even where everything leaves" if controls[0].is_open else "on no endpoint"
        return (
            f"Whether a list teaches more than labels alone cannot be told here: {where} did the "
            "best attack gain more than labels by over two standard errors."
        )
    whole = "this audit" if len(baselines) == of else "this audit that was compared"
    closed = [baseline for baseline in baselines if not baseline.is_open]
    equal = [baseline for baseline in closed if baseline.outcome is Outcome.NO_MORE]
    if equal:
        unseen = 2 * max(baseline.gap.error or 0.0 for baseline in equal)
        return (
            "More than a label leaves, and no attack of this suite gained more from it than from "
            f"labels alone, within one standard error: {', '.join(map(_equal_text, equal))}; "
            f"that is {len(equal)} of {len(closed)} such endpoints that were compared, and up to "
            f"{percent(unseen)} points more (two standard errors) would have passed unseen."
        )
    unclear = [baseline for baseline in closed if baseline.outcome is Outcome.UNCLEAR]
    if unclear:
        return (
            f"No policy of {whole} was seen to give more than a label and to teach no more than "
            "labels alone; between one and two standard errors, and so not to be told apart: "
            f"{', '.join(map(_equal_text, unclear))}."
        )
    least = min(closed or baselines, key=lambda baseline: baseline.gap.mean)
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


def _equal_text(baseline: LabelOnlyBaseline) -> str:
    if baseline.utility is None:
        return f"{baseline.endpoint} ({baseline.text})"
    client_utility = (
        f"top-1 {percent(baseline.utility.top1)} %, first five {percent(baseline.utility.top5)} %"
    )
    return f"{baseline.endpoint} ({client_utility}; {baseline.text})"


def gives_a_list(endpoint: Mapping[str, Any]) -> bool:
    """Whether an endpoint's answers hold more than their top-1."""
    client_utility = endpoint.get("utility")
    if client_utility is not None:
        return bool(client_utility["top5"] > client_utility["top1"])
    return bool(endpoint["support"] > 1)


def _label_endpoints(
    endpoint: Mapping[str, Any], endpoints: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Who sold the same labels as this endpoint, and one class an answer."""
    labels = endpoint.get("labels")  # None in reports of earlier versions
    return [
        other["name"]
        for other in endpoints
        if labels is not None and other.get("labels") == labels and other["support"] == 1
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
