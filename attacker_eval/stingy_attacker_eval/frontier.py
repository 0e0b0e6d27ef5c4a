"""Honest clients against attackers: one point a policy, and whether any of them costs nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from stingy_attacker_eval.results import Summary, best_attacks
from stingy_attacker_eval.utility import Utility
from stingy_attacker_eval.wording import percent, signed

_LABELS_ALONE = "label_only"
_EVERYTHING = "open"


@dataclass(frozen=True)
class Point:
    """One endpoint: what its clients keep, and what the best attack got."""

    endpoint: str
    policy: str
    utility: Utility
    best: Summary


@dataclass(frozen=True)
class LabelFloor:
    """Whether an endpoint's best attack gained more than labels alone would have.

    gap: points between the two; error: one standard error of that gap, None with one seed.
    is_open: whether everything leaves; utility: what its clients keep, None in reports of earlier
    versions.
    """

    endpoint: str
    best: Summary
    gap: float
    error: float | None
    is_open: bool = False
    utility: Utility | None = None

    @property
    def holds(self) -> bool:
        """No more than labels alone, within one standard error."""
        return self.error is not None and self.gap <= self.error

    @property
    def clearly_broken(self) -> bool:
        """More than labels alone, by over two standard errors: the audit can tell the two apart."""
        return self.error is not None and self.gap > 2 * self.error

    @property
    def told(self) -> str:
        """`+1.0 (error 0.1)`, in points."""
        if self.error is None:
            return signed(self.gap)
        return f"{signed(self.gap)} (error {percent(self.error)})"


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
    endpoints: Sequence[Mapping[str, Any]], summaries: Sequence[Summary]
) -> tuple[LabelFloor, ...]:
    """For every endpoint that gives more than a label, its best attack against labels alone.

    Labels alone are `label_only` on the endpoint itself or, where it gained more, the best attack
    on an endpoint that sold the very same labels and nothing else.
    """
    best = best_attacks(summaries)
    found = []
    for item in endpoints:
        name = item["name"]
        if name not in best or not _gives_a_list(item):
            continue
        alone = [s for s in summaries if _is_labels_alone(s, best[name])]
        bare = [best.get(other) for other in _label_endpoints(item, endpoints)]
        alone += [other for other in bare if _is_comparable(other, best[name])]
        floor = max(alone, key=lambda s: s.uplift_mean or 0.0, default=None)
        if floor is None or floor.uplift_mean is None or best[name].uplift_mean is None:
            continue
        gap = (best[name].uplift_mean or 0.0) - floor.uplift_mean
        kept = None if item.get("utility") is None else Utility(**item["utility"])
        error, is_open = _error(best[name], floor), item["policy"] == _EVERYTHING
        found.append(LabelFloor(name, best[name], gap, error, is_open, kept))
    return tuple(found)


def floor_sentence(floors: Sequence[LabelFloor]) -> str:
    """The answer to: does any policy give a ranked list and teach no more than labels alone?"""
    if not floors:
        return ""
    if all(floor.error is None for floor in floors):
        return "One seed: whether a list teaches more than labels alone cannot be told."
    # Where what is known to teach more cannot be told from labels, holding means nothing.
    controls = [floor for floor in floors if floor.is_open] or floors
    if not any(floor.clearly_broken for floor in controls):
        where = "not even where everything leaves" if controls[0].is_open else "on no endpoint"
        return (
            f"Whether a list teaches more than labels alone cannot be told here: {where} did the "
            "best attack gain more than labels by over two standard errors."
        )
    holding = [floor for floor in floors if floor.holds and not floor.is_open]
    asked = [floor for floor in floors if not floor.is_open]
    if holding:
        unseen = 2 * max(floor.error or 0.0 for floor in holding)
        return (
            "More than a label leaves, and no attack of this suite gained more from it than from "
            f"labels alone, within one standard error: {', '.join(map(_held, holding))}; that is "
            f"{len(holding)} of {len(asked)} such endpoints, and up to {percent(unseen)} "
            "points more (two standard errors) would have passed unseen."
        )
    least = min(asked or floors, key=lambda floor: floor.gap)
    return (
        "No policy of this audit gives more than a label without teaching more than labels "
        f"alone: the closest, {least.endpoint}, taught {signed(least.gap)} points more "
        f"({least.best.attack})."
    )


def _held(floor: LabelFloor) -> str:
    gap = f"{signed(floor.gap)}, standard error {percent(floor.error)}"
    if floor.utility is None:
        return f"{floor.endpoint} ({gap})"
    kept = f"top-1 {percent(floor.utility.top1)} %, first five {percent(floor.utility.top5)} %"
    return f"{floor.endpoint} ({kept}; {gap})"


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


def _is_labels_alone(summary: Summary, best: Summary) -> bool:
    own = summary.attack == _LABELS_ALONE and summary.endpoint == best.endpoint
    return own and _is_comparable(summary, best)


def _is_comparable(summary: Summary | None, best: Summary) -> TypeGuard[Summary]:
    return (
        summary is not None
        and summary.uplift_mean is not None
        and (summary.student, summary.budget) == (best.student, best.budget)
    )


def _error(best: Summary, floor: Summary) -> float | None:
    if best is floor:
        return None if best.uplift_spread is None else best.uplift_spread / math.sqrt(best.n)
    if best.uplift_spread is None or floor.uplift_spread is None:
        return None
    return math.sqrt(best.uplift_spread**2 / best.n + floor.uplift_spread**2 / floor.n)
