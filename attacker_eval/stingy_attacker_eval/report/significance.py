"""The difference of two attacks: the only rule by which an audit distinguishes two numbers."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from stingy_attacker_eval.report.formatting import signed
from stingy_attacker_eval.results import Row, Summary

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Difference:
    """Points between two mean accuracies.

    error: one standard error of the difference; None if a side has one seed.
    n: seeds of the side that has fewer. With few seeds the error is itself rough, so a text with
        the error also has n.
    """

    mean: float
    error: float | None
    n: int

    @property
    def is_clear(self) -> bool:
        """True if the difference is over two standard errors."""
        return self.error is not None and abs(self.mean) > 2 * self.error

    @property
    def reliability(self) -> str:
        """The text `error 0.21, n = 3`.

        It has two decimals, because few seeds can be 0.0 apart by luck.
        """
        return "one seed" if self.error is None else f"error {self.error:.2f}, n = {self.n}"

    @property
    def text(self) -> str:
        """The text `+1.0 (error 0.21, n = 3)`, in points."""
        return f"{signed(self.mean)} ({self.reliability})"


def difference(left: Summary, right: Summary, rows: Sequence[Row]) -> Difference:
    """Subtract right from left; both have a finite mean.

    With the same seeds on both sides, the runs are paired by seed. A seed decides the student's
    weights, the order of the images and their shifts. Its effect on every student is therefore
    absent from the difference of two.

    The remaining variance is the residual mean square of a two-way layout of attacks and seeds.
    For two attacks alone it is the variance of their gaps. It is pooled over all students of the
    audit that are no worse than the worse of the two, because a few gaps estimate it badly.

    If the seeds differ, the error is that of two independent means.
    """
    accuracies = left.accuracy_mean or 0.0, right.accuracy_mean or 0.0
    mean, n = accuracies[0] - accuracies[1], min(left.n, right.n)
    if left.accuracy_spread is None or right.accuracy_spread is None:
        return Difference(mean, None, n)
    seeds = _by_seed(left, rows).keys()
    if len(seeds) == n and seeds == _by_seed(right, rows).keys():
        noise = _noise(left, seeds, min(accuracies), rows)
        if noise is not None:
            return Difference(mean, math.sqrt(2 * noise / n), n)
    apart = math.hypot(
        left.accuracy_spread / math.sqrt(left.n), right.accuracy_spread / math.sqrt(right.n)
    )
    return Difference(mean, apart, n)


def _noise(
    like: Summary, seeds: Collection[int], least: float, rows: Sequence[Row]
) -> float | None:
    """Return the variance of an accuracy that neither attack nor seed explains.

    Returns None if there are fewer than two attacks.

    like: a summary with the student and the budget to look for.
    seeds: the seeds that each attack must have.
    least: the lowest mean accuracy of the students to pool. Students below it, which bad answers
        spoiled, vary more than those compared.
    """
    trained: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        is_like = (row.student, row.budget) == (like.student, like.budget)
        if is_like and row.finite and row.trained_on is None:
            run = trained.setdefault((row.endpoint, row.attack), {})
            run[row.seed] = row.accuracy
    table = np.array(
        [[run[seed] for seed in seeds] for run in trained.values() if run.keys() == seeds]
    )
    table = table[table.mean(axis=1) >= least - _ROUNDING] if len(table) else table
    if len(table) < 2:
        return None
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    return float((rest**2).sum() / ((len(table) - 1) * (len(seeds) - 1)))


def _by_seed(summary: Summary, rows: Sequence[Row]) -> dict[int, float]:
    wanted = summary.endpoint, summary.attack, summary.student, summary.budget
    return {
        row.seed: row.accuracy
        for row in rows
        if (row.endpoint, row.attack, row.student, row.budget) == wanted and row.finite
    }
