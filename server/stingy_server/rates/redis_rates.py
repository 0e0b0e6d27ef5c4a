"""Rate limits in Redis, for several processes. One Lua script checks and charges in one step."""

import asyncio

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from stingy_server.errors import RATE_LIMITED, STORE_UNAVAILABLE, ServiceError
from stingy_server.rates.rate import Rate, RateState, seconds_ceil

DEADLINE_S = 1.0
CALLS = 32  # at once, each on a connection of its own; more wait, so no crowd uses up the files
SCHEMES = ("redis://", "rediss://")

# The same steps as `MemoryRates.charge`, with the clock of Redis. A log is a flat list: start,
# latest charge and images of each entry, oldest first. If the clock of Redis was set back, the
# entries move back with it, as if no time had passed since the latest charge.
CHARGE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local limit, window, part = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local images = tonumber(ARGV[4])
local packed = redis.call('GET', KEYS[1])
local log = packed and cmsgpack.unpack(packed) or {}
local ahead = math.max(0, (log[#log - 1] or now) - now)
local kept, counted = {}, 0
for i = 1, #log, 3 do
  local start, latest = log[i] - ahead, log[i + 1] - ahead
  if now - latest <= window then
    local last = #kept
    kept[last + 1], kept[last + 2], kept[last + 3] = start, latest, log[i + 2]
    counted = counted + log[i + 2]
  end
end
local granted = counted + images <= limit
local last = #kept
local leaves = 0
if granted then
  counted = counted + images
  if last > 0 and now - kept[last - 2] <= part then
    kept[last - 1], kept[last] = now, kept[last] + images
  else
    kept[last + 1], kept[last + 2], kept[last + 3] = now, now, images
  end
  leaves = kept[2]
else
  local missing = counted + images - limit
  local i = 1
  while missing > kept[i + 2] do
    missing = missing - kept[i + 2]
    i = i + 3
  end
  leaves = kept[i + 1]
end
if granted or ahead > 0 then
  redis.call('SET', KEYS[1], cmsgpack.pack(kept), 'PX', math.ceil(window / 1000) + 1)
end
return {granted and 1 or 0, limit - counted, leaves + window + 1 - now}
"""


class RedisRates:
    """The logs in a Redis that several processes share.

    A call that fails is not repeated, because it may have charged.

    Raises:
        ValueError: the address is not one of a Redis.
    """

    def __init__(self, address: str) -> None:
        if not address.startswith(SCHEMES):
            raise ValueError(f"expected an address such as redis://HOST:PORT, got {address[:10]!r}")
        self._redis = Redis.from_url(
            address,
            socket_timeout=DEADLINE_S,
            socket_connect_timeout=DEADLINE_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._charge = self._redis.register_script(CHARGE)
        self._calls = asyncio.Semaphore(CALLS)

    async def charge(self, name: str, rate: Rate, images: int) -> RateState:
        """Charge images to the log of a name. See `Rates.charge`.

        Raises:
            ServiceError: rate_limited; store_unavailable, if Redis does not answer in `DEADLINE_S`.
        """
        try:
            async with asyncio.timeout(DEADLINE_S), self._calls:
                granted, remaining, wait_us = await self._charge(
                    keys=[f"stingy:rate:{name}:{rate.limit}/{rate.seconds}"],
                    args=[rate.limit, rate.window_us, rate.part_us, images],
                )
        except (RedisError, OSError):  # TimeoutError is an OSError
            raise ServiceError(STORE_UNAVAILABLE) from None
        wait_s = seconds_ceil(wait_us)
        if not granted:
            raise ServiceError(RATE_LIMITED, retry_after=wait_s)
        return RateState(rate.limit, remaining, wait_s)

    async def close(self) -> None:
        await self._redis.aclose()
