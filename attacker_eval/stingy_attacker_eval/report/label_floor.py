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
class LabelFloor:
    """An endpoint's best attack against labels alone.

    floor: the best that was got with such labels; gap: how much more the best attack got;
    is_open: whether everything leaves; utility: what its clients keep, None in reports of earlier
    versions.
    """

    endpoint: str
    best: Summary
    floor: Summary
    gap: Difference
    outcome: Outcome
    is_open: bool = False
    utility: Utility | None = None

    @property
    def told(self) -> str:
        """`+1.0 (error 0.21, n = 3) over label_only`, or why it is not told."""
        if self.outcome is Outcome.UNTRIED:
            return self.outcome
        elsewhere = self.floor.endpoint not in (NO_ENDPOINT, self.endpoint)
        where = f" on {self.floor.endpoint}" if elsewhere else ""
        return f"{self.gap.told} over {self.floor.attack}{where}"


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


def label_floors(
    endpoints: Sequence[Mapping[str, Any]],
    summaries: Sequence[Summary],
    rows: Sequence[Mapping[str, Any]],
    attacks: Mapping[str, Attack],
) -> tuple[LabelFloor, ...]:
    """For every endpoint that gives more than a label, its best attack against labels alone.

    Labels alone are the best of what the attacker owns already (`no_api`), of attacks here that
    read labels alone, and of all attacks on endpoints that sold the very same labels and nothing
    else; with the student and the images of the best attack. attacks: by their labels in the
    report; of one that is missing nothing is known. Where there is nothing to compare there is
    no floor.
    """
    best = best_attacks(summaries)
    found = []
    for item in endpoints:
        name = item["name"]
        if name not in best or not gives_a_list(item):
            continue
        bare = _label_endpoints(item, endpoints)
        bought, lists, owned = [], [], []
        for s in summaries:
            if not _is_comparable(s, best[name]):
                continue
            if s.endpoint == NO_ENDPOINT:
                owned.append(s)
            elif s.endpoint in bare or (s.endpoint == name and _reads_labels_alone(s, attacks)):
                bought.append(s)
            elif s.endpoint == name:
                lists.append(s)
        if not bought:
            continue
        # Of equals its own: endpoints that sold the same labels share a student.
        floor = max(bought + owned, key=lambda s: (s.uplift_mean or 0.0, s.endpoint == name))
        gap = difference(best[name], floor, rows)
        outcome = _outcome(gap)
        fair = _labels_had_as_much(best[name], bought, attacks) and (
            outcome is Outcome.MORE or _lists_had_as_much(floor, lists, attacks)
        )
        if outcome is not Outcome.ONE_SEED and not fair:
            outcome = Outcome.UNTRIED
        kept = None if item.get("utility") is None else Utility(**item["utility"])
        is_open = item["policy"] == _EVERYTHING
        found.append(LabelFloor(name, best[name], floor, gap, outcome, is_open, kept))
    return tuple(found)


def _labels_had_as_much(
    best: Summary, bought: Sequence[Summary], attacks: Mapping[str, Attack]
) -> bool:
    """Whether labels had what the best attack had: true labels beside them, as many answers."""
    with_true = [s for s in bought if _uses_true_labels(s, attacks)]
    like = with_true if _uses_true_labels(best, attacks) else bought
    return any((s.queries or 0) >= (best.queries or 0) for s in like)


def _lists_had_as_much(
    floor: Summary, lists: Sequence[Summary], attacks: Mapping[str, Attack]
) -> bool:
    """Whether a list was read at all, and beside true labels where the best on labels had them."""
    return any(_uses_true_labels(s, attacks) for s in lists) or (
        bool(lists) and not _uses_true_labels(floor, attacks)
    )


def floor_sentence(floors: Sequence[LabelFloor], lists: Sequence[str]) -> str:
    """The answer to: does any policy give a ranked list and teach no more than labels alone?

    lists: the endpoints that give one, with a floor or without.
    """
    if floors and all(floor.outcome is Outcome.ONE_SEED for floor in floors):
        return "One seed: whether a list teaches more than labels alone cannot be told."
    compared = [f for f in floors if f.outcome not in (Outcome.UNTRIED, Outcome.ONE_SEED)]
    left = [name for name in lists if name not in {floor.endpoint for floor in compared}]
    parts = [_decided(compared, of=len(lists))] if compared else []
    if left:
        parts.append(
            f"Not compared with labels alone: {', '.join(left)}, where the two were not tried in "
            "the same way: on more than one seed of both, with true labels beside both or "
            "neither, and labels for as many answers."
        )
    return " ".join(parts)


def _decided(floors: Sequence[LabelFloor], *, of: int) -> str:
    """What comparisons with labels alone say, of so many endpoints that give a list."""
    # Where what is known to teach more cannot be told from labels, holding means nothing.
    controls = [floor for floor in floors if floor.is_open] or floors
    if not any(floor.outcome is Outcome.MORE for floor in controls):
        where = "not even where everything leaves" if controls[0].is_open else "on no endpoint"
        return (
            f"Whether a list teaches more than labels alone cannot be told here: {where} did the "
            "best attack gain more than labels by over two standard errors."
        )
    whole = "this audit" if len(floors) == of else "this audit that was compared"
    asked = [floor for floor in floors if not floor.is_open]
    holding = [floor for floor in asked if floor.outcome is Outcome.NO_MORE]
    if holding:
        unseen = 2 * max(floor.gap.error or 0.0 for floor in holding)
        return (
            "More than a label leaves, and no attack of this suite gained more from it than from "
            f"labels alone, within one standard error: {', '.join(map(_held, holding))}; that is "
            f"{len(holding)} of {len(asked)} such endpoints that were compared, and up to "
            f"{percent(unseen)} points more (two standard errors) would have passed unseen."
        )
    unclear = [floor for floor in asked if floor.outcome is Outcome.UNCLEAR]
    if unclear:
        return (
            f"No policy of {whole} was seen to give more than a label and to teach no more than "
            "labels alone; between one and two standard errors, and so not to be told apart: "
            f"{', '.join(map(_held, unclear))}."
        )
    least = min(asked or floors, key=lambda floor: floor.gap.mean)
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


def _held(floor: LabelFloor) -> str:
    if floor.utility is None:
        return f"{floor.endpoint} ({floor.told})"
    kept = f"top-1 {percent(floor.utility.top1)} %, first five {percent(floor.utility.top5)} %"
    return f"{floor.endpoint} ({kept}; {floor.told})"


def gives_a_list(endpoint: Mapping[str, Any]) -> bool:
    """Whether an endpoint's answers hold more than their top-1."""
    kept = endpoint.get("utility")
    if kept is not None:
        return bool(kept["top5"] > kept["top1"])
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


def _reads_labels_alone(summary: Summary, attacks: Mapping[str, Attack]) -> bool:
    attack = attacks.get(summary.attack)
    return attack is not None and attack.reads_top1_alone


def _uses_true_labels(summary: Summary, attacks: Mapping[str, Attack]) -> bool:
    """As the attack says; one that is not installed here may."""
    attack = attacks.get(summary.attack)
    return attack is None or attack.uses_true_labels
