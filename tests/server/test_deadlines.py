"""Deadlines cancel what is late, and raise what asyncio's own timeouts raise."""

import asyncio

import pytest

from stingy_server.deadlines import Deadlines

pytestmark = pytest.mark.anyio


async def test_late_work_is_cancelled_with_a_timeout() -> None:
    deadlines = Deadlines(0.02)
    with pytest.raises(TimeoutError), deadlines.start():
        await asyncio.sleep(10)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_work_in_time_is_left_alone() -> None:
    deadlines = Deadlines(0.05)
    for _ in range(5):
        with deadlines.start():
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)


async def test_each_deadline_holds_beside_others() -> None:
    deadlines = Deadlines(0.05)
    loop = asyncio.get_running_loop()

    async def work(begin_s: float, work_s: float) -> float:
        await asyncio.sleep(begin_s)
        started = loop.time()
        try:
            with deadlines.start():
                await asyncio.sleep(work_s)
        except TimeoutError:
            return loop.time() - started
        return 0.0

    late = await asyncio.gather(*(work(0.01 * n, 10 * (n % 2)) for n in range(10)))
    assert all(seconds == 0.0 for seconds in late[::2])
    assert all(0.04 < seconds < 1.0 for seconds in late[1::2])


async def test_task_that_was_cancelled_stays_cancelled() -> None:
    deadlines = Deadlines(10.0)

    async def work() -> None:
        with deadlines.start():
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_ended_deadlines_are_forgotten() -> None:
    deadlines = Deadlines(10.0)
    for _ in range(1000):
        with deadlines.start():
            pass
    assert len(deadlines._waiting) <= 2
