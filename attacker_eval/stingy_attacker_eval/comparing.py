"""What two attacks differ by: the one rule by which an audit tells any two numbers apart."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stingy_attacker_eval.results import Summary
from stingy_attacker_eval.wording import signed


@dataclass(frozen=True)
class Difference:
    """Points between two mean accuracies.

    error: one standard error of it, None where a side has one seed; n: the seeds of the side that
    has fewer. With few seeds an error is itself rough, so whoever shows it shows n.
    """

    mean: float
    error: float | None
    n: int

    @property
    def is_clear(self) -> bool:
        """Over two standard errors: the audit can tell the two apart."""
        return self.error is not None and abs(self.mean) > 2 * self.error

    @property
    def reliability(self) -> str:
        """`error 0.21, n = 3`; with two decimals, for few seeds can be 0.0 apart by luck."""
        return "one seed" if self.error is None else f"error {self.error:.2f}, n = {self.n}"

    @property
    def told(self) -> str:
        """`+1.0 (error 0.21, n = 3)`, in points."""
        return f"{signed(self.mean)} ({self.reliability})"


def difference(left: Summary, right: Summary, rows: Sequence[Mapping[str, Any]]) -> Difference:
    """Left less right, both with a finite mean; seed by seed where both have the same seeds.

    A seed decides the student's weights, the order of the images and their shifts, so what it does
    to both sides goes out of a difference of the two. Where the seeds differ, or left is right, the
    error is that of two means apart, or of the one.
    """
    mean = (left.accuracy_mean or 0.0) - (right.accuracy_mean or 0.0)
    n = min(left.n, right.n)
    if left.accuracy_spread is None or right.accuracy_spread is None:
        return Difference(mean, None, n)
    if left == right:
        return Difference(mean, left.accuracy_spread / math.sqrt(n), n)
    ours, theirs = _by_seed(left, rows), _by_seed(right, rows)
    if len(ours) == n and ours.keys() == theirs.keys():
        gaps = [ours[seed] - theirs[seed] for seed in ours]
        return Difference(mean, statistics.stdev(gaps) / math.sqrt(n), n)
    apart = math.hypot(
        left.accuracy_spread / math.sqrt(left.n), right.accuracy_spread / math.sqrt(right.n)
    )
    return Difference(mean, apart, n)


def _by_seed(summary: Summary, rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    wanted = summary.endpoint, summary.attack, summary.student, summary.budget
    return {
        row["seed"]: row["accuracy"]
        for row in rows
        if (row["endpoint"], row["attack"], row["student"], row.get("budget")) == wanted
        and row["finite"]
    }
