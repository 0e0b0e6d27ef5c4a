"""The turns of work on the event loop: callers alternate, and the loop rests between units."""

import asyncio
import time
from functools import partial

import pytest

from stingy_server.codec.loop_turns import LoopTurns

pytestmark = pytest.mark.anyio


async def test_S6_loop_turns_alternate_between_callers() -> None:
    turns = LoopTurns()
    done: list[str] = []
    jobs = [
        asyncio.ensure_future(turns.run(caller, partial(done.append, caller)))
        for caller in ["a"] * 4 + ["b", "c"]
    ]
    cancelled = asyncio.ensure_future(turns.run("b", partial(done.append, "never")))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(*jobs)
    assert done == ["a", "b", "c", "a", "a", "a"]
    assert await turns.run("a", lambda: "after a pause") == "after a pause"


async def test_S6_loop_rests_as_long_as_a_unit_took() -> None:
    turns = LoopTurns()
    work = [asyncio.ensure_future(turns.run("a", partial(time.sleep, 0.05))) for _ in range(4)]
    idle = 0.0
    while not work[-1].done():
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        if (passed := time.perf_counter() - before) < 0.04:
            idle += passed
    assert idle > 0.1  # 3 rests of 0.05 s


async def test_S6_unit_that_fails_fails_alone() -> None:
    turns = LoopTurns()
    failed, well = turns.run("a", partial(int, "x")), turns.run("a", partial(int, "1"))
    outcomes = await asyncio.gather(failed, well, return_exceptions=True)
    assert isinstance(outcomes[0], ValueError)
    assert outcomes[1] == 1
