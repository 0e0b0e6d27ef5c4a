"""The readiness of a model server: one probe at a time, whose result is kept for a second.

So a client that asks often for a model's readiness sends no flood to the model server.
"""

import asyncio
from collections.abc import Awaitable, Callable

KEPT_S = 1.0
TIMEOUT_S = 2.0  # of a probe


class Readiness:
    """The readiness of one model server.

    Args:
        probe: returns whether the server is ready. It raises no exception but cancellation.
    """

    def __init__(self, probe: Callable[[], Awaitable[bool]]) -> None:
        self._probe = probe
        self._task: asyncio.Task[bool] | None = None
        self._until = 0.0  # on the clock of the event loop

    async def check(self) -> bool:
        """Return whether the server is ready, by a probe that is at most a second old."""
        task, loop = self._task, asyncio.get_running_loop()
        if task is None or (task.done() and loop.time() >= self._until):
            task = self._task = loop.create_task(self._run(loop))
        return await asyncio.shield(task)  # a client that leaves does not end it for others

    async def _run(self, loop: asyncio.AbstractEventLoop) -> bool:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._probe()
        except TimeoutError:
            return False
        finally:
            self._until = loop.time() + KEPT_S
