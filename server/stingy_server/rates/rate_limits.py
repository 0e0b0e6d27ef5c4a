"""Rate limits, exact: no window of a rate's length has more images than the limit.

Each key has a log of its charges. Charges that come within a `PARTS`th of the window share an
entry, and an entry counts until its latest charge has left the window. A log is therefore short,
and it never counts too little. GCRA would need less memory. But GCRA with a burst of the whole
limit grants nearly twice the limit in one window, because it refills while the burst still counts.

The price is that an image may count for up to a `PARTS`th of the window too long. A key that sends
evenly gets at least `PARTS` / (`PARTS` + 1) of its rate. A whole limit at once is always granted
to a key that was idle for a window.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from stingy_server.errors import RATE_LIMITED, REFUSED, ConfigurationError, ServiceError

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


class _Counter(Protocol):
    """The logs of a rate store outside of this process."""

    async def charge(self, name: str, rate: Rate, images: int) -> RateState: ...

    async def close(self) -> None: ...


class Rates:
    """The rate limits of all keys, in this process or in Redis.

    Args:
        store: `memory://` or `redis://...`.

    Attributes:
        charge_now: charges without waiting, as `charge` does; None if the logs are in Redis.

    Raises:
        ConfigurationError: the kind of store is unknown, or its extra is not installed.
    """

    charge_now: Callable[[str, str, int], RateState] | None = None

    def __init__(self, store: str) -> None:
        self._shared: _Counter | None = None
        if store in ("memory:", "memory://"):
            self.charge_now = MemoryRates().charge
            return
        try:
            # Imported here because redis is an optional dependency.
            from stingy_server.rates.redis_rates import RedisRates

            self._shared = RedisRates(store)
        except (ModuleNotFoundError, ValueError):
            raise ConfigurationError(
                ["rate_store: expected memory:// or redis://HOST:PORT (with the extra redis)"]
            ) from None

    async def charge(self, key_id: str, rate: str, images: int) -> RateState:
        """Charge images to a key's rate, all or nothing.

        Args:
            key_id: the name of the log. A key that has two rates has two names.
            rate: such as "600/minute".
            images: their number, 1 or more.

        Raises:
            BatchOverRate: the rate never grants so many images at once.
            ServiceError: rate_limited, if the window has fewer images left; `retry_after` is when
                it has enough. store_unavailable, if Redis does not answer in time. refused, if the
                rate cannot be read.
        """
        if self.charge_now is not None:
            return self.charge_now(key_id, rate, images)
        assert self._shared is not None  # noqa: S101
        parsed = _stored_rate(rate)
        if images > parsed.limit:
            raise BatchOverRate(parsed.limit)
        return await self._shared.charge(key_id, parsed, images)

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._shared is not None:
            await self._shared.close()


class _Log:
    """The charges of one key in one window: closed entries, oldest first, and the open one."""

    __slots__ = ("closed", "counted", "images", "latest", "start", "window_us")

    def __init__(self, window_us: int) -> None:
        self.window_us = window_us
        self.closed: deque[tuple[int, int]] = deque()  # (latest charge, images)
        self.counted = 0  # images of all entries
        self.start = self.latest = self.images = 0


class MemoryRates:
    """The logs of one process.

    Args:
        clock: returns microseconds and never goes back.
    """

    def __init__(self, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock or _monotonic_us
        self._logs: dict[tuple[str, str], _Log] = {}
        self._limits: dict[str, tuple[int, int, int]] = {}

    def charge(self, key_id: str, rate: str, images: int) -> RateState:
        """Charge images without waiting. See `Rates.charge`."""
        limits = self._limits.get(rate)
        if limits is None:
            limits = self._read_limits(rate)
        limit, window_us, part_us = limits
        if images > limit:
            raise BatchOverRate(limit)
        now = self._clock()
        entries = self._logs.get((key_id, rate))
        if entries is None:
            entries = self._open_log((key_id, rate), window_us, now)
        oldest = now - window_us
        closed = entries.closed
        if entries.latest < oldest:
            closed.clear()
            entries.counted = entries.images = 0
        while closed and closed[0][0] < oldest:
            entries.counted -= closed.popleft()[1]
        counted = entries.counted + images
        if counted > limit:
            raise ServiceError(RATE_LIMITED, retry_after=_wait_s(entries, counted - limit, now))
        if entries.images and now - entries.start <= part_us:
            entries.images += images
        else:
            if entries.images:
                closed.append((entries.latest, entries.images))
            entries.start, entries.images = now, images
        entries.latest = now
        entries.counted = counted
        leaves = (closed[0][0] if closed else now) + window_us + 1
        return RateState(limit, limit - counted, seconds_ceil(leaves - now))

    def _read_limits(self, rate: str) -> tuple[int, int, int]:
        parsed = _stored_rate(rate)
        if len(self._limits) >= 1024:
            self._limits.clear()
        limits = (parsed.limit, parsed.window_us, parsed.part_us)
        return self._limits.setdefault(rate, limits)

    def _open_log(self, name: tuple[str, str], window_us: int, now: int) -> _Log:
        """Make a log. Drop up to two idle ones, so that they never outnumber the others."""
        for _ in range(min(2, len(self._logs))):
            other = next(iter(self._logs))
            found = self._logs.pop(other)
            if found.latest >= now - found.window_us:
                self._logs[other] = found  # at the end: the next call looks at others
        entries = self._logs[name] = _Log(window_us)
        return entries


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000


def _wait_s(entries: _Log, missing: int, now: int) -> int:
    """Return the seconds until so many images have left the window."""
    latest = entries.latest
    for latest, images in (*entries.closed, (entries.latest, entries.images)):  # noqa: B007
        missing -= images
        if missing <= 0:
            break
    return seconds_ceil(latest + entries.window_us + 1 - now)


def seconds_ceil(microseconds: int) -> int:
    return -(-microseconds // MICROSECONDS)


def _stored_rate(text: str) -> Rate:
    """Parse the rate of a stored key.

    Raises:
        ServiceError: refused, if the rate cannot be read.
    """
    try:
        return parse_rate(text)
    except ValueError:
        log.error("a key has a rate that cannot be read")
        raise ServiceError(REFUSED) from None


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
