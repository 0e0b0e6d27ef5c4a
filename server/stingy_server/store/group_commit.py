"""How an event loop asks the store: what the requests of one turn write is one transaction.

Nobody goes on before the transaction holds, and if it fails it fails for everyone in it. A store
over a network is asked in a thread; what comes meanwhile waits, and goes together then. Who is
cancelled has written nothing, or is told what was written first.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import Database

Result = TypeVar("Result")

SETTLING_S = 0.01


class _Asked(NamedTuple):  # made for every write: a frozen dataclass would cost a microsecond
    call: Callable[[], Any]
    over: Collection[str]
    done: asyncio.Future[Any]


class _Done(asyncio.Future[Any]):
    """What a thread will have written: once it is begun, nobody can cancel it."""

    begun = False

    def cancel(self, msg: Any = None) -> bool:
        return not self.begun and super().cancel(msg)


class Writes:
    """The writes that wait for the end of the turn.

    A commit costs more than what is in it: sixteen together take a quarter of the time of sixteen
    alone.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Asked] = []
        self._busy = False
        self._thread = ThreadPoolExecutor(1) if database.remote else None

    async def do(self, call: Callable[[], Result], *, over: Collection[str] = ()) -> Result:
        """The result of a write, once it is committed.

        One that is begun is not given up: a task that is cancelled meanwhile has the result, and
        is cancelled where it waits next.

        Args:
            over: what it charges, as in `Database.transaction`.

        Raises:
            StoreUnavailable: nothing was written.
        """
        done = self.put(call, over=over)
        try:
            return await done
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or done.cancelled() or done.exception() is not None:
                raise  # nothing was written
            task.uncancel()  # once for once: a timeout counts who cancels
            task.cancel()
            return done.result()

    def put(
        self, call: Callable[[], Result], *, over: Collection[str] = ()
    ) -> asyncio.Future[Result]:
        """The same for who need not wait; what is put first is written first."""
        loop = asyncio.get_running_loop()
        if not self._waiting and not self._busy:
            loop.call_soon(self._begin)
        done: asyncio.Future[Result]
        done = loop.create_future() if self._thread is None else _Done(loop=loop)
        self._waiting.append(_Asked(call, over, done))
        return done

    async def flush(self) -> None:
        """Wait until all is written that was put, or is about to be by who has been cancelled."""
        idle = 0
        while idle < 2:  # who has just been told of one write may be about to ask for another
            await asyncio.sleep(SETTLING_S)
            idle = 0 if self._waiting or self._busy else idle + 1

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()

    def _begin(self) -> None:
        # Whoever was cancelled meanwhile writes nothing.
        waiting = [asked for asked in self._waiting if not asked.done.done()]
        self._waiting.clear()
        if self._thread is None:
            _tell(waiting, self._tried(waiting))
            return
        self._busy = True
        for asked in waiting:
            asked.done.begun = True  # type: ignore[attr-defined]
        loop = asyncio.get_running_loop()
        tried = loop.run_in_executor(self._thread, self._tried, waiting)
        tried.add_done_callback(partial(self._end, waiting))

    def _end(self, waiting: Sequence[_Asked], tried: asyncio.Future[Sequence[Any]]) -> None:
        self._busy = False
        _tell(waiting, tried.result())
        if self._waiting:
            self._begin()

    def _tried(self, waiting: Sequence[_Asked]) -> Sequence[Any]:
        """The result of each, or the exception it is to be told."""
        try:
            return self._results(waiting)
        except Exception as error:  # noqa: BLE001  whatever it was, nobody may wait for ever
            return [error] * len(waiting)

    def _results(self, waiting: Sequence[_Asked]) -> Sequence[Any]:
        with self._database.transaction(over=(name for asked in waiting for name in asked.over)):
            return [asked.call() for asked in waiting]


class Alone(Writes):
    """What is no part of a common transaction: at once in a file, else in a thread of its own.

    What one fails with is its own; but where one finds the store gone, those that wait behind it
    do not try again.
    """

    async def do(self, call: Callable[[], Result], *, over: Collection[str] = ()) -> Result:
        """The result of a call that reads, or that is a transaction by itself.

        Raises:
            StoreUnavailable: from the call.
        """
        return call() if self._thread is None else await self.put(call)

    def _results(self, waiting: Sequence[_Asked]) -> Sequence[Any]:
        results: list[Any] = []
        for asked in waiting:
            try:
                results.append(asked.call())
            except StoreUnavailable as error:
                return results + [error] * (len(waiting) - len(results))
            except Exception as error:  # noqa: BLE001  it is told to who asked, and to nobody else
                results.append(error)
        return results


class Together(Alone, Generic[Result]):
    """What is asked for many in one question: over a network for all who wait, else at once.

    So strangers who ask all the time cost the others one question, and no queue of them.

    Args:
        answer: to one text.
        answers: to any number of texts, in their order.
    """

    def __init__(
        self,
        database: Database,
        answer: Callable[[str], Result],
        answers: Callable[[Sequence[str]], Sequence[Result]],
    ) -> None:
        super().__init__(database)
        self._answer = answer
        self._answers = answers

    async def ask(self, text: str) -> Result:
        """The answer to one text.

        Raises:
            StoreUnavailable: from the question.
        """
        if self._thread is None:
            return self._answer(text)
        return cast("Result", await self.put(lambda: text))

    def _results(self, waiting: Sequence[_Asked]) -> Sequence[Result]:
        return self._answers([asked.call() for asked in waiting])


def _tell(waiting: Sequence[_Asked], results: Sequence[Any]) -> None:
    for asked, result in zip(waiting, results, strict=True):
        if isinstance(result, Exception):
            asked.done.set_exception(result)
        else:
            asked.done.set_result(result)
