"""The decode pool: callers in turn, a share of the queue each; the cancelled leave no work."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import pytest

from stingy_server.codec.decode_pool import DecodePool
from stingy_server.errors import OVERLOADED, ServiceError

pytestmark = pytest.mark.anyio


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    one = DecodePool(capacity=100, threads=1)
    yield one
    one.close()


class Blocker:
    """A unit that keeps a thread busy until it is released."""

    def __init__(self) -> None:
        self.started, self.released = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.started.set()
        assert self.released.wait(20)
        return "blocker"


@pytest.fixture
async def blocker(pool: DecodePool) -> AsyncIterator[Blocker]:
    """Keep the pool's thread busy."""
    unit = Blocker()
    task = asyncio.ensure_future(pool.run("blocker", [unit], cost=1))
    await asyncio.to_thread(unit.started.wait, 20)
    yield unit
    unit.released.set()
    assert await task == ["blocker"]


def recorded(done: list[str], name: str) -> Callable[[], str]:
    def unit() -> str:
        done.append(name)
        return name

    return unit


async def test_results_come_in_the_order_of_the_units(pool: DecodePool) -> None:
    units = [partial(str, number) for number in range(50)]
    assert await pool.run("a", units, cost=50) == [str(number) for number in range(50)]


async def test_S2_callers_are_served_in_turn(pool: DecodePool, blocker: Blocker) -> None:
    done: list[str] = []
    jobs = [
        pool.run("a", [recorded(done, "a")] * 6, cost=1),
        pool.run("a", [recorded(done, "second a")], cost=1),
        pool.run("b", [recorded(done, "b")] * 2, cost=1),
        pool.run("c", [recorded(done, "c")], cost=1),
    ]
    tasks = [asyncio.ensure_future(job) for job in jobs]
    await asyncio.sleep(0)
    blocker.released.set()
    await asyncio.gather(*tasks)
    # Each caller once a round; a caller's requests in turn too.
    assert done == ["a", "b", "c", "second a", "b", "a", "a", "a", "a", "a"]


async def test_S1_caller_over_its_share_of_the_queue_is_refused(
    pool: DecodePool, blocker: Blocker
) -> None:
    first = asyncio.ensure_future(pool.run("a", [lambda: "a"], cost=40))
    await asyncio.sleep(0)
    with pytest.raises(ServiceError) as error:
        await pool.run("a", [lambda: "a"], cost=40)
    assert error.value.refusal is OVERLOADED
    second = asyncio.ensure_future(pool.run("b", [lambda: "b"], cost=40))
    await asyncio.sleep(0)
    blocker.released.set()
    assert await first == ["a"]
    assert await second == ["b"]
    assert await pool.run("a", [lambda: "more"], cost=10_000) == ["more"]  # the pool is empty


async def test_S2_cancelled_request_leaves_the_queue(pool: DecodePool, blocker: Blocker) -> None:
    done: list[str] = []
    task = asyncio.ensure_future(pool.run("a", [recorded(done, "a")] * 10, cost=90))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    waiting = asyncio.ensure_future(pool.run("a", [lambda: "next"], cost=90))
    await asyncio.sleep(0)
    blocker.released.set()
    assert await waiting == ["next"]
    assert done == []


async def test_unit_that_fails_ends_its_request_alone(pool: DecodePool, blocker: Blocker) -> None:
    done: list[str] = []
    units: list[Callable[[], object]] = [
        recorded(done, "a"),
        partial(int, "x"),
        recorded(done, "never"),
    ]
    failing = asyncio.ensure_future(pool.run("a", units, cost=1))
    other = asyncio.ensure_future(pool.run("b", [lambda: "b"] * 3, cost=1))
    await asyncio.sleep(0)
    blocker.released.set()
    with pytest.raises(ValueError, match="invalid literal"):
        await failing
    assert await other == ["b"] * 3
    await asyncio.sleep(0.05)
    assert done[:1] == ["a"]
