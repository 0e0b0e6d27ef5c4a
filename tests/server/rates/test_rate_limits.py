"""Rates: exact in any window, in memory and in Redis, and refused where they cannot be counted."""

import asyncio
import itertools
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stingy_server.errors import RATE_LIMITED, REFUSED, STORE_UNAVAILABLE, ServiceError
from stingy_server.rates import redis_rates
from stingy_server.rates.memory_rates import MemoryRates
from stingy_server.rates.rate import MICROSECONDS, PARTS, BatchOverRate, Rate, parse_rate
from stingy_server.rates.rates import Rates

if TYPE_CHECKING:
    from redis_server import RunningRedis

WINDOW_US = 3 * MICROSECONDS
PART_US = WINDOW_US // PARTS
LIMIT = 8
RATE = f"{LIMIT} per 3 seconds"
names = itertools.count()

# Gaps around the edges of an entry and of a window, and any others.
gaps = st.one_of(
    st.integers(0, WINDOW_US + 2),
    st.sampled_from([0, 1, PART_US, PART_US + 1, WINDOW_US - 1, WINDOW_US, WINDOW_US + 1]),
)
charges = st.lists(st.tuples(gaps, st.integers(1, LIMIT)), max_size=60)


class Clock:
    """A clock that a test sets, in microseconds."""

    now = 10**15

    def __call__(self) -> int:
        return self.now


def try_charge(rates: MemoryRates, images: int) -> tuple[bool, int, int]:
    """Charge in memory. Return whether it was granted, the images left and the seconds to wait."""
    try:
        state = rates.charge("k", RATE, images)
    except ServiceError as error:
        return False, -1, error.refusal.retry_after or 0
    return True, state.remaining, state.reset_s


@given(charges)
def test_Q10_no_window_has_more_images_than_the_limit(charges: list[tuple[int, int]]) -> None:
    clock = Clock()
    rates = MemoryRates(clock)
    granted: deque[tuple[int, int]] = deque()
    for gap, images in charges:
        clock.now += gap

        def within(length: int) -> int:
            return sum(each for at, each in granted if at >= clock.now - length)

        got, remaining, wait_s = try_charge(rates, images)
        if got:
            assert within(WINDOW_US) + images <= LIMIT
            assert 0 <= remaining <= LIMIT - within(WINDOW_US) - images
            granted.append((clock.now, images))
        else:  # what left more than a part of a window ago counts no more
            assert within(WINDOW_US + PART_US) + images > LIMIT
        assert 1 <= wait_s <= 4


@given(charges, st.integers(1, LIMIT))
def test_Q10_request_is_granted_after_its_retry_after(
    charges: list[tuple[int, int]], images: int
) -> None:
    clock = Clock()
    rates = MemoryRates(clock)
    for gap, each in charges:
        clock.now += gap
        try_charge(rates, each)
    granted, _, wait_s = try_charge(rates, images)
    if not granted:
        clock.now += wait_s * MICROSECONDS
        assert try_charge(rates, images)[0]


def test_Q10_twenty_per_five_seconds_grants_twenty_in_any_five() -> None:
    clock = Clock()
    rates = MemoryRates(clock)
    granted = []
    for _ in range(5000):  # 50 seconds, a try each 10 ms
        clock.now += 10_000
        try:
            rates.charge("k", "20 per 5 seconds", 1)
        except ServiceError:
            continue
        granted.append(clock.now)
    most = max(sum(at <= other <= at + 5 * MICROSECONDS for other in granted) for at in granted)
    assert most == 20
    assert len(granted) == 200  # a limit at once, then the next one a window later


def test_Q10_even_sender_gets_nearly_its_whole_rate() -> None:
    clock = Clock()
    rates = MemoryRates(clock)
    granted = 0
    for _ in range(1000 * 20):  # twice the rate, for ten windows
        clock.now += MICROSECONDS // 2000
        try:
            rates.charge("k", "1000/second", 1)
        except ServiceError:
            continue
        granted += 1
    assert granted >= 10 * 1000 * PARTS / (PARTS + 1)


def test_Q10_batch_over_the_limit_is_named_with_the_limit() -> None:
    with pytest.raises(BatchOverRate) as raised:
        MemoryRates().charge("k", "100/minute", 101)
    assert raised.value.limit == 100


def test_idle_logs_are_dropped() -> None:
    clock = Clock()
    rates = MemoryRates(clock)
    for number in range(5000):
        rates.charge(f"k{number}", "5/second", 1)
        clock.now += MICROSECONDS // 10  # ten keys are active in a window
    assert len(rates._logs) <= 50


def test_log_of_a_busy_key_stays_short() -> None:
    clock = Clock()
    rates = MemoryRates(clock)
    for _ in range(20_000):
        rates.charge("k", "1000000/second", 1)
        clock.now += 997
    (entries,) = rates._logs.values()
    assert len(entries.closed) <= PARTS + 1


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("600/minute", Rate(600, 60)),
        ("20 per 5 seconds", Rate(20, 5)),
        ("1/second", Rate(1, 1)),
        ("  7 PER 2 Hours ", Rate(7, 7200)),
        ("10/day", Rate(10, 86_400)),
        ("5/3 months", Rate(5, 90 * 86_400)),
        ("1/year", Rate(1, 360 * 86_400)),
    ],
)
def test_rate_is_parsed(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "600",
        "0/minute",
        "-1/minute",
        "1.5/minute",
        "1e3/minute",
        "٣/minute",
        "600/minute; 5/second",
        "600/minutes per hour",
        "600/0 minutes",
        "600/fortnight",
        "600perminute",
        "10000000000/minute",
        "1/2 years",
        f"{'9' * 5000}/minute",
        "600/minute\n5",
    ],
)
def test_text_that_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a rate"):
        parse_rate(text)


@pytest.mark.anyio
async def test_stored_rate_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ServiceError) as raised:
        await Rates("memory://").charge("k", "10/minute;5/second", 1)
    assert raised.value.refusal is REFUSED


class TestRedis:
    """The same rates in a real Redis."""

    @pytest.fixture(autouse=True)
    def _redis(self, own_redis: "RunningRedis") -> None:
        pytest.importorskip("redis")
        self.server = own_redis

    def script(self) -> Any:
        """Return the server's script with the clock as a fifth argument."""
        import redis

        from stingy_server.rates.redis_rates import CHARGE

        own_clock = "local now = clock[1] * 1000000 + clock[2]"
        assert own_clock in CHARGE
        script = CHARGE.replace(own_clock, "local now = tonumber(ARGV[5])")
        return redis.Redis.from_url(self.server.address).register_script(script)

    def charge(self, script: Any, name: str, images: int, now: int) -> tuple[bool, int, int]:
        rate = [LIMIT, WINDOW_US, PART_US, images, now]
        granted, remaining, wait_us = script(keys=[name], args=rate)
        return bool(granted), remaining if granted else -1, -(-wait_us // MICROSECONDS)

    def test_Q10_redis_and_memory_agree_on_every_charge(self) -> None:
        script = self.script()

        @given(charges)
        def agree(charges: list[tuple[int, int]]) -> None:
            clock = Clock()
            rates, name = MemoryRates(clock), f"k{next(names)}"
            for gap, images in charges:
                clock.now += gap
                expected = try_charge(rates, images)
                assert self.charge(script, name, images, clock.now) == expected

        agree()

    def test_Q10_clock_set_back_neither_grants_more_nor_blocks(self) -> None:
        script, now = self.script(), 10**15
        assert self.charge(script, "k", LIMIT, now)[0]
        now -= 3600 * MICROSECONDS
        assert not self.charge(script, "k", 1, now)[0]
        assert not self.charge(script, "k", 1, now + WINDOW_US)[0]
        assert self.charge(script, "k", LIMIT, now + WINDOW_US + 1)[0]

    @pytest.mark.anyio
    async def test_Q10_two_processes_share_one_rate(self) -> None:
        one, two = Rates(self.server.address), Rates(self.server.address)
        assert one.charge_now is None
        granted, refusals = 0, []
        for number in range(30):
            try:
                await (one, two)[number % 2].charge("k", "20/hour", 1)
            except ServiceError as error:
                refusals.append(error.refusal)
            else:
                granted += 1
        assert granted == 20
        assert {refusal.code for refusal in refusals} == {RATE_LIMITED.code}
        assert all(3500 < (refusal.retry_after or 0) <= 3600 for refusal in refusals)
        with pytest.raises(BatchOverRate):
            await one.charge("k", "20/hour", 21)
        await one.close()
        await two.close()

    @pytest.mark.anyio
    async def test_S3_crowd_of_charges_opens_few_connections_to_redis(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import redis

        monkeypatch.setattr(redis_rates, "DEADLINE_S", 60.0)  # for 500 on a busy machine
        rates = Rates(self.server.address)
        charges = [rates.charge("k", "1000/hour", 1) for _ in range(500)]
        remaining = [(await charge).remaining for charge in asyncio.as_completed(charges)]
        clients = redis.Redis.from_url(self.server.address).info("clients")
        await rates.close()
        assert min(remaining) == 500
        assert clients["connected_clients"] <= 40

    @pytest.mark.anyio
    async def test_D5_hung_or_killed_redis_is_refused_in_time(self) -> None:
        rates = Rates(self.server.address)
        assert (await rates.charge("k", "20/hour", 1)).remaining == 19
        self.server.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(ServiceError) as raised:
            await rates.charge("k", "20/hour", 1)
        assert raised.value.refusal is STORE_UNAVAILABLE
        assert time.monotonic() - started < 3
        self.server.process.send_signal(signal.SIGCONT)
        assert (await rates.charge("k", "20/hour", 1)).remaining <= 18  # by itself
        self.server.process.kill()
        with pytest.raises(ServiceError):
            await rates.charge("k", "20/hour", 1)
        await rates.close()
