"""Rate limits, exact: no window of a rate's length has more images than the limit.

Each key has a log of its charges. Charges that come within a `PARTS`th of the window share an
entry, and an entry counts until its latest charge has left the window. A log is therefore short,
and it never counts too little. GCRA would need less memory. But GCRA with a burst of the whole
limit grants nearly twice the limit in one window, because it refills while the burst still counts.

The price is that an image may count for up to a `PARTS`th of the window too long. A key that sends
evenly gets at least `PARTS` / (`PARTS` + 1) of its rate. A whole limit at once is always granted
to a key that was idle for a window.
"""

import time
from collections import deque
from collections.abc import Callable

from stingy_server.errors import RATE_LIMITED, ServiceError
from stingy_server.rates.rate import BatchOverRate, RateState, seconds_ceil, stored_rate


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
        parsed = stored_rate(rate)
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
