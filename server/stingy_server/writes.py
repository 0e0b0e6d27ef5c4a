"""Group commit: what the requests of one turn of the event loop write is one transaction.

Nobody goes on before the transaction holds, and if it fails it fails for everyone in it.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from stingy_server.database import Database

Result = TypeVar("Result")


class Writes:
    """The writes that wait for the end of the turn.

    A commit costs more than what is in it: sixteen together take a quarter of the time of sixteen
    alone.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    async def do(self, write: Callable[[], Result]) -> Result:
        """The result of a write, once it is committed.

        Raises:
            StoreUnavailable: nothing was written.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._commit)
        self._waiting.append((write, done))
        result: Result = await done
        return result

    def _commit(self) -> None:
        # Whoever was cancelled meanwhile writes nothing.
        waiting = [(write, done) for write, done in self._waiting if not done.done()]
        self._waiting.clear()
        try:
            with self._database.transaction():
                results = [write() for write, _ in waiting]
        except Exception as error:  # noqa: BLE001  whatever it was, nobody may wait for ever
            for _, done in waiting:
                done.set_exception(error)
            return
        for (_, done), result in zip(waiting, results, strict=True):
            done.set_result(result)
