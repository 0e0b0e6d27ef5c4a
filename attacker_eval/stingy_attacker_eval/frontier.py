"""Honest clients against attackers: one point a policy, and whether any of them costs nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stingy_attacker_eval.attacks import Attack, Need, attack_types
from stingy_attacker_eval.comparing import Difference, difference
from stingy_attacker_eval.protocol import NO_ENDPOINT
from stingy_attacker_eval.results import Summary, best_attacks
from stingy_attacker_eval.utility import Utility
from stingy_attacker_eval.wording import percent, signed

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
    UNTRIED = "labels beside the true label were not tried"
    """The best attack may use true labels, and what it is compared with did not."""
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
) -> tuple[LabelFloor, ...]:
    """For every endpoint that gives more than a label, its best attack against labels alone.

    Labels alone are the best of what the attacker owns already (`no_api`), of attacks here that
    read labels alone, and of all attacks on endpoints that sold the very same labels and nothing
    else; with the student and the images of the best attack.
    """
    best, known = best_attacks(summaries), attack_types()
    found = []
    for item in endpoints:
        name = item["name"]
        if name not in best or not _gives_a_list(item):
            continue
        bare = _label_endpoints(item, endpoints)
        bought = [
            s
            for s in summaries
            if _is_comparable(s, best[name])
            and (s.endpoint in bare or (s.endpoint == name and _reads_labels_alone(s, known)))
        ]
        if not bought:
            continue
        owned = [
            s for s in summaries if s.endpoint == NO_ENDPOINT and _is_comparable(s, best[name])
        ]
        # Of equals its own: endpoints that sold the same labels share a student.
        floor = max(bought + owned, key=lambda s: (s.uplift_mean or 0.0, s.endpoint == name))
        gap = difference(best[name], floor, rows)
        tried = any(_may_use_true_labels(s, known) for s in bought)
        comparable = tried or not _may_use_true_labels(best[name], known)
        kept = None if item.get("utility") is None else Utility(**item["utility"])
        outcome, is_open = _outcome(gap, comparable=comparable), item["policy"] == _EVERYTHING
        found.append(LabelFloor(name, best[name], floor, gap, outcome, is_open, kept))
    return tuple(found)


def floor_sentence(floors: Sequence[LabelFloor]) -> str:
    """The answer to: does any policy give a ranked list and teach no more than labels alone?"""
    untried = [floor.endpoint for floor in floors if floor.outcome is Outcome.UNTRIED]
    parts = [_decided([floor for floor in floors if floor.outcome is not Outcome.UNTRIED])]
    if untried:
        parts.append(
            f"Not compared with labels alone: {', '.join(untried)}, where the best attack may use "
            "true labels, and labels beside the true label were not tried."
        )
    return " ".join(filter(None, parts))


def _decided(floors: Sequence[LabelFloor]) -> str:
    if not floors:
        return ""
    if all(floor.outcome is Outcome.ONE_SEED for floor in floors):
        return "One seed: whether a list teaches more than labels alone cannot be told."
    # Where what is known to teach more cannot be told from labels, holding means nothing.
    controls = [floor for floor in floors if floor.is_open] or floors
    if not any(floor.outcome is Outcome.MORE for floor in controls):
        where = "not even where everything leaves" if controls[0].is_open else "on no endpoint"
        return (
            f"Whether a list teaches more than labels alone cannot be told here: {where} did the "
            "best attack gain more than labels by over two standard errors."
        )
    asked = [floor for floor in floors if not floor.is_open]
    holding = [floor for floor in asked if floor.outcome is Outcome.NO_MORE]
    if holding:
        unseen = 2 * max(floor.gap.error or 0.0 for floor in holding)
        return (
            "More than a label leaves, and no attack of this suite gained more from it than from "
            f"labels alone, within one standard error: {', '.join(map(_held, holding))}; that is "
            f"{len(holding)} of {len(asked)} such endpoints, and up to {percent(unseen)} "
            "points more (two standard errors) would have passed unseen."
        )
    unclear = [floor for floor in asked if floor.outcome is not Outcome.MORE]
    if unclear:
        return (
            "No policy of this audit that gives more than a label was seen to teach no more than "
            "labels alone; between one and two standard errors, and so not to be told apart: "
            f"{', '.join(map(_held, unclear))}."
        )
    least = min(asked or floors, key=lambda floor: floor.gap.mean)
    return (
        "No policy of this audit gives more than a label without teaching more than labels "
        f"alone: the closest, {least.endpoint}, taught {signed(least.gap.mean)} points more "
        f"({least.best.attack})."
    )


def _outcome(gap: Difference, *, comparable: bool) -> Outcome:
    if not comparable:
        return Outcome.UNTRIED
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


def _gives_a_list(endpoint: Mapping[str, Any]) -> bool:
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


def _reads_labels_alone(summary: Summary, known: Mapping[str, type[Attack]]) -> bool:
    attack = known.get(summary.attack_name)
    return attack is not None and attack.reads_top1_alone


def _may_use_true_labels(summary: Summary, known: Mapping[str, type[Attack]]) -> bool:
    """By what the attack declares; of one that is not installed here nothing is known."""
    attack = known.get(summary.attack_name)
    return attack is None or Need.LABELS in attack.needs
