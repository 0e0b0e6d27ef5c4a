"""The difference of two attacks: the only rule by which an audit distinguishes two numbers."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from stingy_attacker_eval.report.formatting import signed, signed_finely
from stingy_attacker_eval.results import NO_ENDPOINT, Row, Summary

LEVEL = 0.05
"""The level of every test. Intervals leave out as much on both sides together."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Difference:
    """Points between two mean accuracies.

    error: one standard error of the difference; None if a side has one seed.
    n: seeds of the side that has fewer.
    freedom: degrees of freedom of the error; None with it. With few, quantiles of Student's t are
        far above those of the normal distribution.
    """

    mean: float
    error: float | None
    n: int
    freedom: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval, both bounds in points; None without an error."""
        if self.error is None or self.freedom is None:
            return None
        reach = float(special.stdtrit(self.freedom, 1 - LEVEL / 2)) * self.error
        return self.mean - reach, self.mean + reach

    @property
    def upper(self) -> float | None:
        """The one-sided 95 % upper bound, in points; None without an error."""
        if self.error is None or self.freedom is None:
            return None
        return self.mean + float(special.stdtrit(self.freedom, 1 - LEVEL)) * self.error

    @property
    def is_clear(self) -> bool:
        """True if the 95 % interval does not contain 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def p_above(self, bound: float = 0.0) -> float:
        """Return the p-value of "at most `bound`" against "above it"; 1 without an error."""
        return self._p_value(self.mean - bound)

    def p_below(self, bound: float) -> float:
        """Return the p-value of "at least `bound`" against "below it"; 1 without an error."""
        return self._p_value(bound - self.mean)

    def power(self, margin: float, *, level: float = LEVEL) -> float:
        """Return the chance that a true difference of 0 is found to be below the margin.

        It is as large as the chance that a true difference of `margin` is found to be above 0.

        level: of the test.
        """
        if self.error is None or self.freedom is None:
            return 0.0
        if self.error == 0:
            return 1.0
        quantile = float(special.stdtrit(self.freedom, 1 - level))
        found = float(special.nctdtr(self.freedom, -margin / self.error, -quantile))
        if math.isnan(found):  # The function ends at margins of some thousand errors.
            return float(margin / self.error > quantile)
        return found

    @property
    def reliability(self) -> str:
        """The text `+0.58 to +1.42, n = 5`: the interval, with two decimals."""
        if self.interval is None:
            return "one seed"
        low, high = (signed_finely(bound) for bound in self.interval)
        return f"{low} to {high}, n = {self.n}"

    @property
    def text(self) -> str:
        """The text `+1.0 (+0.58 to +1.42, n = 5)`, in points."""
        return f"{signed(self.mean)} ({self.reliability})"

    def _p_value(self, distance: float) -> float:
        if self.error is None or self.freedom is None:
            return 1.0
        if self.error == 0:
            return 0.0 if distance > 0 else 1.0
        return float(special.stdtr(self.freedom, -distance / self.error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several tests so that the chance of any false positive stays at the level.

    Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def difference(
    left: Summary,
    right: Summary,
    rows: Sequence[Row],
    *,
    test_images: int,
    is_baseline_alike: bool = True,
) -> Difference:
    """Subtract right from left; both have a finite mean.

    With the same seeds on both sides, the runs are paired by seed. A seed decides the student's
    weights, the order of the images and their shifts. Its effect on every student is therefore
    absent from the difference of two.

    A few gaps estimate their variance badly. So it is the mean over the gaps of one side to all
    students of the audit that are no worse than the worse of the two: of the side whose gaps vary
    more. Equal students count once. Gaps of students that resemble each other say little more than
    one of them, so the degrees of freedom are those that the covariances of the gaps leave.

    A baseline that trained on other images than the students varies more, or less, than they do.
    It then pools with none of them, and its gaps to one student give the error of their difference.

    If the seeds differ, the error is that of two independent means, with Welch's degrees of
    freedom.

    An accuracy is a count of test images, so a few gaps may be equal by chance. No variance is
    taken as less than that of rounding to such counts.

    rows: the reported rows of one attacker.
    test_images: of which the accuracies are shares.
    is_baseline_alike: True if the no-API baseline trains on all images of the attacker.
    """
    if not is_baseline_alike:
        rows = _without_baseline(left, right, rows)
    least_variance = (100 / test_images) ** 2 / 12
    accuracies = left.accuracy_mean or 0.0, right.accuracy_mean or 0.0
    mean, n = accuracies[0] - accuracies[1], min(left.n, right.n)
    if left.accuracy_spread is None or right.accuracy_spread is None:
        return Difference(mean, None, n, None)
    seeds = _by_seed(left, rows).keys()
    if len(seeds) == n and seeds == _by_seed(right, rows).keys():
        if identity(left, rows) == identity(right, rows):
            return Difference(0.0, 0.0, n, n - 1)
        table = _accuracies(left, seeds, min(accuracies), rows)
        sides = [identity(side, rows) for side in (left, right)]
        if all(side in table for side in sides):
            places = [list(table).index(side) for side in sides]
            students = np.array(list(table.values()))
            variance, freedom = max(_gap_variance(students, place) for place in places)
            return Difference(mean, math.sqrt(max(variance, 2 * least_variance) / n), n, freedom)
    return _independent(mean, left, right, least_variance)


def identity(summary: Summary, rows: Sequence[Row]) -> tuple[object, ...]:
    """Return a value that two summaries share if their students are the same.

    Students are the same if they predict the same for every test image. Where predictions were not
    kept, equal accuracies with every seed stand for that.
    """
    found = _by_seed(summary, rows)
    return tuple(_identity(found[seed]) for seed in sorted(found))


def _without_baseline(left: Summary, right: Summary, rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows to pool where the baseline is unlike the students.

    They are those of the two alone if one is the baseline; else those of all but the baseline.
    """
    sides = [(s.endpoint, s.attack) for s in (left, right)]
    if any(endpoint == NO_ENDPOINT for endpoint, _ in sides):
        return [row for row in rows if (row.endpoint, row.attack) in sides]
    return [row for row in rows if row.endpoint != NO_ENDPOINT]


def _independent(mean: float, left: Summary, right: Summary, least_variance: float) -> Difference:
    parts = [max((s.accuracy_spread or 0.0) ** 2, least_variance) / s.n for s in (left, right)]
    total = sum(parts)
    freedom = total**2 / sum(
        part**2 / (s.n - 1) for part, s in zip(parts, (left, right), strict=True)
    )
    return Difference(mean, math.sqrt(total), min(left.n, right.n), freedom)


def _accuracies(
    like: Summary, seeds: Collection[int], least: float, rows: Sequence[Row]
) -> dict[tuple[object, ...], list[float]]:
    """Return the accuracies by seed of all different students, by identity.

    like: a summary with the student and the budget to look for.
    seeds: the seeds that each attack must have.
    least: the lowest mean accuracy of the students to pool. Students below it, which bad answers
        spoiled, vary more than those compared.
    """
    trained: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        if (row.student, row.budget) == (like.student, like.budget) and row.finite:
            trained.setdefault((row.endpoint, row.attack), {})[row.seed] = row
    order = sorted(seeds)
    different = {
        tuple(_identity(run[seed]) for seed in order): [run[seed].accuracy for seed in order]
        for run in trained.values()
        if run.keys() == seeds
    }
    return {
        name: accuracies
        for name, accuracies in different.items()
        if np.mean(accuracies) >= least - _ROUNDING
    }


def _gap_variance(students: NDArray[np.float64], place: int) -> tuple[float, float]:
    """Return the mean variance of one student's gaps to the others, and its degrees of freedom.

    The freedom is that of Box, "Some theorems on quadratic forms applied in the study of analysis
    of variance problems, I" (1954), theorem 3.1: that of one gap, times trace(C)^2 / trace(C^2) for
    the covariances C of the gaps. Both traces are estimated without bias, as in Srivastava, "Some
    tests concerning the covariance matrix in high dimensional data" (2005). The freedom is at least
    that of one gap. It is at most that of gaps whose only likeness is the student they share.

    students: accuracies `[students, seeds]`.
    place: the student's row.
    """
    gaps = np.delete(students, place, axis=0) - students[place]
    count, one = len(gaps), gaps.shape[1] - 1
    covariances = np.atleast_2d(np.cov(gaps))
    total = float(np.trace(covariances))
    most = one * count / (1 + (count - 1) / 4)
    if one == 1 or total == 0:
        return total / count, one
    squares = float((covariances**2).sum()) - total**2 / one
    squares *= one**2 / ((one - 1) * (one + 2))
    if squares <= 0:
        return total / count, most
    freedom = one * (total**2 - 2 * squares / one) / squares
    return total / count, min(max(freedom, one), most)


def _identity(row: Row) -> object:
    return row.predictions if row.predictions is not None else (row.accuracy, row.agreement)


def _by_seed(summary: Summary, rows: Sequence[Row]) -> dict[int, Row]:
    wanted = summary.endpoint, summary.attack, summary.student, summary.budget
    return {
        row.seed: row
        for row in rows
        if (row.endpoint, row.attack, row.student, row.budget) == wanted and row.finite
    }
