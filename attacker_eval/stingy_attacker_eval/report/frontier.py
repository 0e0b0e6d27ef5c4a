"""The frontier of policies: the utility for honest clients against the best attack's uplift."""

from collections.abc import Sequence
from dataclasses import dataclass

from stingy_attacker_eval.report_schema import EndpointResult
from stingy_attacker_eval.results import Summary, best_attacks
from stingy_clients.utility import Utility


@dataclass(frozen=True)
class Point:
    """One endpoint: the utility for its clients, and the best attack."""

    endpoint: str
    policy: str
    utility: Utility
    best: Summary


def frontier(
    endpoints: Sequence[EndpointResult], summaries: Sequence[Summary]
) -> tuple[Point, ...]:
    """Return a point for each endpoint that has a best attack."""
    best = best_attacks(summaries)
    return tuple(
        Point(item.name, item.policy, item.utility, best[item.name])
        for item in endpoints
        if item.name in best
    )
