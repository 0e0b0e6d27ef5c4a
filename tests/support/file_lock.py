"""Another process that locks a SQLite state, and a measure of how long an event loop stalls."""

import asyncio
import multiprocessing
import sqlite3
import time
from collections.abc import Awaitable
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path

TICK_S = 0.005


def _lock(file: Path, seconds: float, locked: Event) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        locked.set()
        time.sleep(seconds)
        other.execute("ROLLBACK")


class Locker:
    """A process that locks a state for writing, as another server's slow transaction does."""

    def __init__(self, file: Path, seconds: float) -> None:
        context = multiprocessing.get_context("spawn")
        locked = context.Event()
        self._process = context.Process(target=_lock, args=(file, seconds, locked))
        self._process.start()
        assert locked.wait(60)

    def join(self) -> None:
        self._process.join()


async def longest_stall(work: Awaitable[object]) -> float:
    """Return the longest time in seconds for which the event loop did nothing else than `work`."""
    running = asyncio.ensure_future(work)
    longest, last = 0.0, time.monotonic()
    while not running.done():
        await asyncio.sleep(TICK_S)
        now = time.monotonic()
        longest, last = max(longest, now - last - TICK_S), now
    await running
    return longest
