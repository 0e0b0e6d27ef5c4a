"""Times as the state has them: texts, days and months, all in UTC."""

import time
from datetime import UTC, datetime
from functools import lru_cache

DAY_S = 86_400


def stamp(moment: datetime | None = None) -> str:
    """Format a time, or the present one, in UTC. All times have one form and compare as text."""
    moment = datetime.now(UTC) if moment is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")


def today() -> int:
    """Return the present day of UTC, in days since 1 January 1970."""
    return int(time.time() // DAY_S)


@lru_cache(maxsize=8)
def month_of(day: int) -> int:
    """Return the month of a day, in months since January 1970."""
    date = datetime.fromtimestamp(day * DAY_S, UTC)
    return 12 * (date.year - 1970) + date.month - 1


def start_of_month(month: int) -> float:
    """Return the start of a month, in seconds since 1970.

    Args:
        month: in months since January 1970.
    """
    return datetime(1970 + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()
