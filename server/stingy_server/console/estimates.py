"""Estimates of what a key's answers have taught, out of audits of the same endpoint.

An estimate is a range, and never a number between two measurements. An audit counts only if it has
the model, the version, the policy and the tier of the key. Otherwise there is no estimate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stingy_clients.documents.audit_report import AuditReport, MeasuredLeak
from stingy_server.console.traffic import Endpoint
from stingy_server.settings import FULL_TIER, Tier


@dataclass(frozen=True)
class LeakRange:
    """The share of the gap that an attacker closes with so many answers, as far as it was measured.

    The gap is that from the attacker without the API to the model, in accuracy.

    Attributes:
        audit: the audit's title.
        attacker: the audit's name of the attacker.
        low: the least share; 0 if nothing was measured with as few answers.
        high: the largest share; None if the audit had fewer answers.
    """

    audit: str
    attacker: str
    low: float
    high: float | None

    @property
    def text(self) -> str:
        """The range in percent of the gap, such as "8 to 15 %"."""
        low = math.floor(round(100 * self.low, 6))
        if self.high is None:
            return f"{low} % or more" if low > 0 else "beyond the audit"
        high = math.ceil(round(100 * self.high, 6))
        if high <= 0:
            return "nothing measurable"
        return f"{low} to {high} %" if low > 0 else f"up to {high} %"

    @property
    def worst(self) -> float:
        """The share by which ranges are compared."""
        return math.inf if self.high is None else self.high


class Audits:
    """The audits that the operator named.

    Args:
        reports: the audits.
        tiers: the tiers of the settings, by name.
    """

    def __init__(self, reports: Sequence[AuditReport], tiers: Mapping[str, Tier]) -> None:
        self._tiers = {**tiers, FULL_TIER: Tier()}
        self._reports = reports
        self._curves: dict[tuple[Endpoint, str], list[_Curve]] = {}

    def ranges(self, endpoint: Endpoint, tier: str, images: int) -> list[LeakRange]:
        """Return the range of each attacker of each fitting audit, the worst first.

        Args:
            endpoint: the version that answered, with the fingerprint of its policy alone.
            tier: the name of the key's tier.
            images: the most images that were answered.
        """
        curves = self._curves.get((endpoint, tier))
        if curves is None:
            curves = self._curves[endpoint, tier] = self._find(endpoint, tier)
        found = [
            LeakRange(title, attacker, *_bracket(points, images))
            for title, attacker, points in curves
        ]
        return sorted(found, key=lambda each: (each.worst, each.low), reverse=True)

    def _find(self, endpoint: Endpoint, tier: str) -> "list[_Curve]":
        if tier not in self._tiers:
            return []
        fingerprint = self._tiers[tier].fingerprint(endpoint.fingerprint)
        found = []
        for report in self._reports:
            for audited in report.find(
                fingerprint=fingerprint, version=endpoint.version, names=[endpoint.model]
            ):
                if audited.model == endpoint.model:
                    curves = _curves(report, audited.name)
                    found += [(report.title, *curve) for curve in curves.items()]
        return found


@dataclass(frozen=True)
class _Point:
    """A measurement with a number of answers: bounds of the share of the gap."""

    queries: int
    low: float
    high: float


_Curve = tuple[str, str, list[_Point]]  # the audit's title, the attacker's name, its points


def _curves(report: AuditReport, name: str) -> dict[str, list[_Point]]:
    """Return the points of each attacker on an endpoint, the fewest answers first.

    An attacker can leave answers unused, so neither bound falls with more answers.
    """
    leaks = [
        leak
        for budget in (*report.budgets(name), None)
        for leak in report.leaks(name, budget=budget)
    ]
    curves: dict[str, list[_Point]] = {}
    for leak in sorted(leaks, key=lambda leak: leak.queries):
        point = _point(leak)
        if point is None:
            continue
        points = curves.setdefault(leak.attacker, [])
        if points:
            low, high = max(point.low, points[-1].low), max(point.high, points[-1].high)
            point = _Point(point.queries, low, high)
        points.append(point)
    return curves


def _point(leak: MeasuredLeak) -> _Point | None:
    """Return the bounds of a leak; None without bounds, without a gap, or without a query."""
    if leak.low is None or leak.high is None or leak.gap <= 0 or leak.queries <= 0:
        return None
    return _Point(leak.queries, leak.low / leak.gap, leak.high / leak.gap)


def _bracket(points: Sequence[_Point], images: int) -> tuple[float, float | None]:
    """Return the bounds for a number of answers, by the measurements below and above it."""
    low = max((each.low for each in points if each.queries <= images), default=0.0)
    high = next((each.high for each in points if each.queries >= images), None)
    return max(0.0, low), high
