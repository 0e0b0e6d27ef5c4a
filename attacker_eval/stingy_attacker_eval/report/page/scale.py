"""The axis of a figure in a table's column: positions in percent of the column's width."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_PADDING = 0.05
_MOST_TICKS = 4


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high`."""

    low: float
    high: float

    def at(self, value: float) -> str:
        """Return the place of a value, as `41.5%`."""
        return f"{self.place(value):.2f}%"

    def place(self, value: float) -> float:
        """Return the place of a value in percent of the width."""
        return 100 * (value - self.low) / (self.high - self.low)

    def ticks(self) -> tuple[float, ...]:
        """Return two to four round values within the axis."""
        first = math.ceil(self.low / self.step)
        return tuple(n * self.step for n in range(first, math.floor(self.high / self.step) + 1))

    @property
    def step(self) -> float:
        """The distance of two ticks."""
        return _round_step((self.high - self.low) / _MOST_TICKS)

    @property
    def decimals(self) -> int:
        """The decimals that tell the ticks apart."""
        return next(n for n in range(20) if abs(round(self.step, n) - self.step) < self.step / 1e6)


def scale_of(values: Iterable[float]) -> Scale:
    """Return an axis around values, with a margin on both sides."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    margin = _PADDING * (high - low) or 0.5
    return Scale(low - margin, high + margin)


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5 times a power of ten that is above `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step for factor in (1, 2, 2.5, 5, 10) if (step := factor * power) > least)
