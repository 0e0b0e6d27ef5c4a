"""A queue of store calls that an event loop fills and that is processed in batches, in order.

A batch runs on the event loop, if the queue may use it, and waits there for no lock. It runs in a
thread if another process has the lock. What is queued meanwhile forms the next batch. A queue never
has more than one thread.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

from stingy_server.store.base import StoreBusy, StoreUnavailable
from stingy_server.store.database import Database

Item = TypeVar("Item")

DOWN = "the store does not answer"
RETRY: Final = object()  # the outcome of an item that belongs into the next batch


class _Future(asyncio.Future[Any]):
    """The outcome of an item: it cannot be cancelled while its batch is in a thread."""

    started = False

    def cancel(self, msg: Any = None) -> bool:
        return not self.started and super().cancel(msg)


# One for each call. A NamedTuple, because a frozen dataclass costs a microsecond more.
class _Entry(NamedTuple, Generic[Item]):
    item: Item
    future: _Future
    deadline: float  # of the loop's clock


class StoreQueue(Generic[Item]):
    """The queue. An item without an outcome at its deadline fails, whatever its batch does.

    Args:
        database: the store that the batches use.
        process: maps a batch to the result, the exception or RETRY of each item. If it raises,
            every item of the batch gets the exception. On the event loop it may raise StoreBusy
            before it has written anything. It is then called again in the thread.
        on_loop: whether batches run on the event loop, if they need no lock of another process.
    """

    def __init__(
        self,
        database: Database,
        process: Callable[[Sequence[Item]], Sequence[Any]],
        *,
        on_loop: bool = False,
    ) -> None:
        self._database = database
        self._on_loop = on_loop
        self._health = database.health
        self._process = process
        self._entries: list[_Entry[Item]] = []
        self._batch: list[_Entry[Item]] = []  # in the thread
        self._busy = False
        self._overdue = 0.0  # when the thread has taken too long, by the loop's clock
        self._thread: ThreadPoolExecutor | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        return not (self._entries or self._busy)

    def put(self, item: Item) -> asyncio.Future[Any]:
        """Queue an item for the next batch. It fails at once while the store does not answer."""
        loop = asyncio.get_running_loop()
        future = _Future(loop=loop)
        if not self._health.ok:
            future.set_exception(StoreUnavailable(DOWN, down=True))
            return future
        if not (self._entries or self._busy):
            loop.call_soon(self._start_batch)
        self._entries.append(_Entry(item, future, loop.time() + self._database.deadline_s))
        if self._busy:
            self._arm_timer(loop)
        return future

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._thread.shutdown()

    def _start_batch(self) -> None:
        if self._busy:
            return
        # An item whose caller was cancelled meanwhile is dropped, and so is one that failed.
        batch = [entry for entry in self._entries if not entry.future.done()]
        self._entries.clear()
        if not batch:
            return
        items = [entry.item for entry in batch]
        if self._on_loop:
            outcomes: Sequence[Any]
            try:
                outcomes = self._database.try_now(partial(self._process, items))
            except StoreBusy:
                self._start_thread(batch, items)
                return
            except Exception as error:  # noqa: BLE001  any error must wake the callers
                outcomes = [error] * len(batch)
            self._resolve(batch, outcomes)
            if self._entries:
                asyncio.get_running_loop().call_soon(self._start_batch)
            return
        self._start_thread(batch, items)

    def _start_thread(self, batch: list[_Entry[Item]], items: list[Item]) -> None:
        self._busy, self._batch = True, batch
        for entry in batch:
            entry.future.started = True
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1)
        loop = asyncio.get_running_loop()
        self._overdue = loop.time() + self._database.deadline_s
        outcomes = loop.run_in_executor(self._thread, self._process, items)
        outcomes.add_done_callback(self._end_batch)
        self._arm_timer(loop)

    def _end_batch(self, outcomes: asyncio.Future[Sequence[Any]]) -> None:
        batch, self._batch = self._batch, []
        self._busy = False
        error = outcomes.exception()
        self._resolve(batch, outcomes.result() if error is None else [error] * len(batch))
        if self._entries:
            self._start_batch()

    def _resolve(self, batch: Sequence[_Entry[Item]], outcomes: Sequence[Any]) -> None:
        """Give each caller its outcome. Queue the items to retry, in front of the others."""
        retried = []
        down = False
        for entry, outcome in zip(batch, outcomes, strict=True):
            failed = isinstance(outcome, BaseException)
            down |= failed and self._is_down(outcome)
            if entry.future.done():  # its deadline has passed
                continue
            if outcome is RETRY:
                retried.append(entry)
            elif failed:
                entry.future.set_exception(outcome)
            else:
                entry.future.set_result(outcome)
        self._entries[:0] = retried
        if down:
            self._fail_all()
        else:
            self._health.succeed()

    def _fail_all(self) -> None:
        """Fail all that is queued, because the store does not answer."""
        self._health.fail()
        for entry in self._entries:
            if not entry.future.done():
                entry.future.set_exception(StoreUnavailable(DOWN, down=True))
        self._entries.clear()

    def _is_down(self, error: BaseException) -> bool:
        # A lock of a file is one for all writes. A lock of a remote store is one for some names.
        busy = isinstance(error, StoreBusy) and not self._database.remote
        return busy or (isinstance(error, StoreUnavailable) and error.down)

    def _arm_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None:
            pending = [entry for entry in self._batch if not entry.future.done()] or self._entries
            times = [entry.deadline for entry in pending[:1]]
            if self._busy:
                times.append(self._overdue)
            if times:
                self._timer = loop.call_at(min(times), self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Fail the items whose deadline has passed. The thread may still process them."""
        self._timer = None
        now = loop.time()
        for entry in (*self._batch, *self._entries):
            if entry.deadline <= now and not entry.future.done():
                error = StoreUnavailable("the store did not answer in time")
                entry.future.set_exception(error)
        self._entries = [entry for entry in self._entries if not entry.future.done()]
        if self._busy and self._overdue <= now:
            self._overdue = now + self._database.deadline_s
            self._fail_all()
        self._arm_timer(loop)
