"""Work that no thread can take off the event loop, in turns: parsing large JSON.

It never releases the lock of the interpreter. In a thread it would make the event loop wait for it
at every socket. So one unit runs on the loop, then the loop rests from it for as long as it took.
Callers take turns.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")
_Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class LoopTurns:
    """The units that wait for their turn on one event loop. They take at most half of its time."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._active = False  # whether a unit is due, or the loop rests after one

    async def run(self, caller: str, unit: Callable[[], Result]) -> Result:
        """Return the result of a unit, in the caller's turn. A cancelled unit is dropped.

        Args:
            caller: the owner of the request, such as a key's id.

        Raises:
            Exception: what the unit raises.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queues.setdefault(caller, deque()).append((unit, future))
        if not self._active:
            self._active = True
            loop.call_soon(self._run_next, loop)
        return await future

    def _run_next(self, loop: asyncio.AbstractEventLoop) -> None:
        job = self._take()
        if job is None:
            self._active = False
            return
        unit, future = job
        started = loop.time()
        try:
            future.set_result(unit())
        except Exception as error:  # noqa: BLE001  its caller gets it
            future.set_exception(error)
        loop.call_later(loop.time() - started, self._run_next, loop)

    def _take(self) -> _Job | None:
        """Return the next unit: of the next caller in turn."""
        while self._queues:
            caller, jobs = next(iter(self._queues.items()))
            job = jobs.popleft()
            if jobs:
                self._queues.move_to_end(caller)
            else:
                del self._queues[caller]
            if not job[1].done():
                return job
        return None
