"""The rate limits of keys, in images. The library `limits` counts them, in memory or in Redis."""

import math
import time
from dataclasses import dataclass

import limits.errors
from limits import RateLimitItem, parse
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.storage import storage_from_string

from stingy_server.errors import (
    RATE_LIMITED,
    STORE_UNAVAILABLE,
    ConfigurationError,
    ServiceError,
)


@dataclass(frozen=True)
class RateState:
    """The values of the `RateLimit-*` headers.

    Attributes:
        limit: images in a window.
        remaining: images left in the window.
        reset_s: seconds to the end of the window.
    """

    limit: int
    remaining: int
    reset_s: int


class Rates:
    """The rate limits of all keys.

    Args:
        store: `memory://` or `redis://...`.

    Raises:
        ConfigurationError: the kind of store is unknown, or its extra is not installed.
    """

    def __init__(self, store: str) -> None:
        try:
            # By default the library takes another Redis client than the one of our extra.
            client = {"implementation": "redispy"} if store.startswith("redis") else {}
            storage = storage_from_string(f"async+{store}", wrap_exceptions=True, **client)
        except (limits.errors.ConfigurationError, ModuleNotFoundError, ValueError):
            raise ConfigurationError(
                ["rate_store: expected memory:// or redis://HOST:PORT (with the extra redis)"]
            ) from None
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._items: dict[str, RateLimitItem] = {}

    async def charge(self, key_id: str, rate: str, images: int) -> RateState:
        """Charge images to a key's rate, all or nothing.

        Raises:
            ServiceError: rate_limited, if the window has fewer images left, or store_unavailable.
        """
        item = self._items.get(rate) or self._items.setdefault(rate, parse(rate))
        try:
            granted = await self._limiter.hit(item, key_id, cost=images)
            stats = await self._limiter.get_window_stats(item, key_id)
        except limits.errors.StorageError:
            raise ServiceError(STORE_UNAVAILABLE) from None
        reset_s = max(1, math.ceil(stats.reset_time - time.time()))
        if not granted:
            raise ServiceError(RATE_LIMITED, retry_after=reset_s)
        return RateState(item.amount, stats.remaining, reset_s)


def parse_rate(text: str) -> RateLimitItem:
    """Parse a number of images in a window, such as "600/minute".

    Raises:
        ValueError: the text is not a rate.
    """
    try:
        return parse(text)
    except ValueError:
        raise ValueError(f"expected a rate such as 600/minute, got {text!r}") from None
