"""Rates: their text, their values, and what is left of them."""

import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from stingy_server.errors import REFUSED, ServiceError

log = logging.getLogger("stingy")

PARTS = 32
MICROSECONDS = 1_000_000
UNITS_S = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "month": 30 * 86_400,
    "year": 360 * 86_400,
}
MAX_LIMIT = 10**9
MAX_WINDOW_S = UNITS_S["year"]
RATE = re.compile(
    rf"\s*([0-9]{{1,10}})\s*(?:/|\bper\b)\s*([0-9]{{1,10}})?\s*({'|'.join(UNITS_S)})s?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Rate:
    """A number of images in a window of time.

    Attributes:
        limit: the most images in any window.
        seconds: the length of a window.
    """

    limit: int
    seconds: int

    @property
    def window_us(self) -> int:
        return self.seconds * MICROSECONDS

    @property
    def part_us(self) -> int:
        """The microseconds in which charges share an entry of the log."""
        return self.window_us // PARTS


# A NamedTuple, because a frozen dataclass costs half a microsecond more and every request has one.
class RateState(NamedTuple):
    """The values of the `RateLimit-*` headers.

    Attributes:
        limit: images in a window.
        remaining: images left in the window.
        reset_s: seconds until the earliest counted images leave the window.
    """

    limit: int
    remaining: int
    reset_s: int


class BatchOverRate(Exception):
    """A request with more images than its rate ever grants at once. `limit` is the most."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"expected at most {limit} images, got more")
        self.limit = limit


def seconds_ceil(microseconds: int) -> int:
    return -(-microseconds // MICROSECONDS)


@lru_cache(maxsize=1024)
def parse_rate(text: str) -> Rate:
    """Parse a number of images in a window, such as "600/minute" or "20 per 5 seconds".

    A month has 30 days, a year 360.

    Raises:
        ValueError: the text is not a rate, or is out of bounds.
    """
    found = RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a rate such as 600/minute, got {text[:80]!r}")
    limit, count, unit = int(found[1]), int(found[2] or 1), found[3].lower()
    seconds = count * UNITS_S[unit]
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"expected a rate of 1 to {MAX_LIMIT} images, got {limit}")
    if not 1 <= seconds <= MAX_WINDOW_S:
        raise ValueError(f"expected a rate's window of 1 s to 360 days, got {seconds} s")
    return Rate(limit, seconds)


def stored_rate(text: str) -> Rate:
    """Parse the rate of a stored key.

    Raises:
        ServiceError: refused, if the rate cannot be read.
    """
    try:
        return parse_rate(text)
    except ValueError:
        log.error("a key has a rate that cannot be read")
        raise ServiceError(REFUSED) from None
