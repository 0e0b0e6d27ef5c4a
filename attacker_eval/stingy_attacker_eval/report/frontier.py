"""The frontier of policies: the utility for honest clients against the best attack's uplift."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stingy_attacker_eval.report_schema import EndpointResult
from stingy_attacker_eval.results import Summary
from stingy_clients.utility import Utility


@dataclass(frozen=True)
class Point:
    """One endpoint: the utility for its clients, and the best attack."""

    endpoint: str
    policy: str
    utility: Utility
    best: Summary


def frontier(endpoints: Sequence[EndpointResult], best: Mapping[str, Summary]) -> tuple[Point, ...]:
    """Return a point for each endpoint that has a best attack."""
    return tuple(
        Point(item.name, item.policy, item.utility, best[item.name])
        for item in endpoints
        if item.name in best
    )


def undominated(endpoints: Sequence[EndpointResult]) -> tuple[EndpointResult, ...]:
    """Return the Pareto set by what clients keep: top-1, first five, calibration error, bytes.

    Of two endpoints one dominates if it is as good in all four and better in one. Endpoints of
    equal utility keep each other.
    """
    ranks = [_rank(item.utility) for item in endpoints]
    return tuple(
        item
        for item, rank in zip(endpoints, ranks, strict=True)
        if not any(_dominates(other, rank) for other in ranks)
    )


def _rank(utility: Utility) -> tuple[float, ...]:
    """Return the four measures, larger for better. An answer without a probability has no ECE."""
    ece = float("inf") if utility.ece is None else utility.ece
    return utility.top1, utility.top5, -ece, -utility.answer_bytes


def _dominates(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return left != right and all(a >= b for a, b in zip(left, right, strict=True))
