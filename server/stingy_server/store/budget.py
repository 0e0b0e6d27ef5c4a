"""A budget, a charge to it, and the shares of its limits that a charge reaches."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from stingy_server.times import DAY_S, month_of, start_of_month


@dataclass(frozen=True)
class Budget:
    """The limits of an owner and the images charged to it; None is no limit.

    Attributes:
        total: images in all.
        used: images charged in all.
        day_total: images in a day of UTC.
        day: the day of the last charge, in days since 1 January 1970.
        day_used: images charged in `day`.
        month_total: images in a month of UTC.
        month: the month of the last charge, in months since January 1970.
        month_used: images charged in `month`.
    """

    total: int | None
    used: int
    day_total: int | None
    day: int
    day_used: int
    month_total: int | None = None
    month: int = 0
    month_used: int = 0

    def remaining(self, today: int) -> int | None:
        """Return the images left on the day `today`, or None if there is no limit."""
        left = [] if self.total is None else [self.total - self.used]
        if self.day_total is not None:
            left.append(self.day_total - self.used_in_day(today))
        if self.month_total is not None:
            left.append(self.month_total - self.used_in_month(today))
        return max(0, min(left)) if left else None

    def used_in_day(self, today: int) -> int:
        """Return the images charged in the day `today`, or in a later day that has opened."""
        return self.day_used if self.day >= today else 0

    def used_in_month(self, today: int) -> int:
        """Return the images charged in the month of `today`, or in a later one that has opened."""
        return self.month_used if self.month >= month_of(today) else 0

    def wait_s(self, images: int, now: float) -> int | None:
        """Return the seconds until so many images fit; None if they never do.

        Args:
            now: seconds since 1970. A day or a month that has opened early, because the clock was
                set back, ends later.
        """
        today = int(now // DAY_S)
        limits = (self.day_total, self.month_total)
        if any(limit is not None and images > limit for limit in limits):
            return None
        if self.total is not None and self.used + images > self.total:
            return None
        opens = now
        if self.month_total is not None and self.used_in_month(today) + images > self.month_total:
            opens = start_of_month(self.month + 1)
        if self.day_total is not None and self.used_in_day(today) + images > self.day_total:
            opens = max(opens, (self.day + 1) * DAY_S)
        return max(1, math.ceil(opens - now))


class Period(StrEnum):
    """The period of a limit."""

    TOTAL = "total"
    DAY = "day"
    MONTH = "month"


class Crossing(NamedTuple):
    """A share of a limit that a charge has reached, for the first time in the period.

    Attributes:
        owner: the owner of the budget.
        period: the period of the limit.
        percent: the share of the limit, one of `REPORTED`.
        limit: images in the period.
        used: images charged in the period, this charge included.
    """

    owner: str
    period: Period
    percent: int
    limit: int
    used: int


# A NamedTuple, because a frozen dataclass costs half a microsecond more and every request has one.
class Reservation(NamedTuple):
    """A charge of images to one to five owners, made before the images are answered.

    Attributes:
        owners: the owners, each once, in any order.
        images: their number.
        days: for each owner, the day that the images count for.
        months: for each owner, the month that they count for.
        crossings: the shares of limits that the charge has reached.
    """

    owners: tuple[str, ...]
    images: int
    days: tuple[int, ...]
    months: tuple[int, ...]
    crossings: tuple[Crossing, ...] = ()
