"""The rate limits of all keys, counted in this process or in Redis."""

from collections.abc import Callable
from typing import Protocol

from stingy_server.errors import ConfigurationError
from stingy_server.rates.memory_rates import MemoryRates
from stingy_server.rates.rate import BatchOverRate, Rate, RateState, stored_rate


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
        parsed = stored_rate(rate)
        if images > parsed.limit:
            raise BatchOverRate(parsed.limit)
        return await self._shared.charge(key_id, parsed, images)

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._shared is not None:
            await self._shared.close()
