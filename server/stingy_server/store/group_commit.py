"""Group commit: writes queued in one event-loop turn share a transaction.

Callers resume after the commit. If the transaction fails, each write is tried alone. So the failure
of one write, or a lock that one write waits for, does not fail the others. A commit that fails is
not repeated, because the store may have committed. A cancelled caller has written nothing, or
receives the result of its write before the cancellation.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

from stingy_server.store.base import OutcomeUnknown, StoreBusy, StoreUnavailable
from stingy_server.store.database import Database
from stingy_server.store.store_queue import RETRY, StoreQueue

log = logging.getLogger("stingy")

Argument = TypeVar("Argument")
Result = TypeVar("Result")

FLUSH_POLL_S = 0.01
# A transaction of PostgreSQL waits so long for a lock, then the writes behind it have their turn.
LOCK_WAIT_S = 0.25
NO_LOCK = ("",)


class _Write(NamedTuple):
    """A write: an argument of a function that makes several writes at once."""

    function: Callable[[Sequence[Any]], Sequence[Any]]
    argument: Any
    locks: Collection[str]


class GroupCommit:
    """The writes that share the transaction of their event-loop turn.

    A commit costs more than its writes: sixteen in one transaction take a quarter of the time of
    sixteen transactions. Writes are made in the order of their calls, except those that are made
    together. In PostgreSQL a write that waits for a lock is overtaken by writes that lock other
    names.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        process = self._commit_remote if database.remote else self._commit_file
        self._queue = StoreQueue(database, process, on_loop=not database.remote)
        self._locked: set[str] = set()  # names whose locks the last batch did not get

    async def run(self, call: Callable[[], Result], *, locks: Collection[str] = ()) -> Result:
        """Return the result of a write after its commit.

        A write that has started is not given up. A task that is cancelled meanwhile receives the
        result, and is cancelled at its next wait.

        Args:
            call: the write, without a transaction of its own. It may be called more than once, but
                one of its calls at most is committed.
            locks: the names that it charges, as in `Database.transaction`.

        Raises:
            StoreUnavailable: it was not written, or its deadline passed. It may have been written
                then, or if the commit failed. It counts as written.
        """
        return cast("Result", await self._commit(_Write(_call_all, call, locks)))

    async def run_together(
        self,
        function: Callable[[Sequence[Argument]], Sequence[Result]],
        argument: Argument,
        *,
        locks: Collection[str] = (),
    ) -> Result:
        """Return the result of a write that is made with others of its turn, after their commit.

        Args:
            function: maps the arguments of all such writes of a turn to their results.
            argument: the argument of this write.
            locks: as in `run`.

        Raises:
            StoreUnavailable: as in `run`.
        """
        return cast("Result", await self._commit(_Write(function, argument, locks)))

    async def _commit(self, write: _Write) -> Any:
        committed = self._queue.put(write)
        try:
            return await committed
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or committed.cancelled() or committed.exception() is not None:
                raise  # nothing was written
            task.uncancel()  # paired with the next line: a timeout counts the cancellations
            task.cancel()
            return committed.result()

    def submit(
        self, call: Callable[[], Result], *, locks: Collection[str] = ()
    ) -> asyncio.Future[Result]:
        """Queue a write without waiting for it."""
        return self._queue.put(_Write(_call_all, call, locks))

    async def flush(self) -> None:
        """Wait for all queued writes, and for those that their cancelled callers queue next.

        Stop waiting if the store has not answered within two deadlines.
        """
        loop = asyncio.get_running_loop()
        latest = loop.time() + 2 * self._database.deadline_s
        idle = 0
        # A caller that has just received its result may queue another write.
        while idle < 2 and loop.time() < latest:
            await asyncio.sleep(FLUSH_POLL_S)
            idle = idle + 1 if self._queue.idle else 0

    def close(self) -> None:
        self._queue.close()

    def _commit_file(self, writes: Sequence[_Write]) -> Sequence[Any]:
        """Commit writes to a file together, or each alone.

        Raises:
            StoreBusy: another process has the lock, and nothing was written.
            OutcomeUnknown: the commit failed.
        """
        try:
            with self._database.transaction():
                return _perform(writes)
        except (StoreBusy, OutcomeUnknown):
            raise
        except Exception as error:  # noqa: BLE001  the callers get it
            if len(writes) == 1:
                return [error]
        return [self._commit_alone(write) for write in writes]

    def _commit_remote(self, writes: Sequence[_Write]) -> Sequence[Any]:
        """Commit the writes whose locks are free together, and the others each alone.

        A write that does not get its lock is tried next with the batch behind this one. The others
        that lock a name of it are then not tried, so that they keep their order.
        """
        outcomes: list[Any] = [RETRY] * len(writes)
        left = list(range(len(writes)))
        together = [i for i in left if self._locked.isdisjoint(writes[i].locks or NO_LOCK)]
        if len(together) > 1:
            names = {name for i in together for name in writes[i].locks}
            try:
                with self._database.transaction(locks=names, wait_s=LOCK_WAIT_S):
                    results = _perform([writes[i] for i in together])
            except Exception as error:  # noqa: BLE001  the callers get it, or each tries alone
                down = isinstance(error, StoreUnavailable) and error.down
                if down or isinstance(error, OutcomeUnknown):
                    results = [error] * len(together)
                    if down:
                        return [error] * len(writes)
                else:
                    results = [RETRY] * len(together)
            for i, result in zip(together, results, strict=True):
                outcomes[i] = result
            left = [i for i in left if outcomes[i] is RETRY]
        self._locked.clear()
        for i in left:
            names = set(writes[i].locks or NO_LOCK)
            if not self._locked.isdisjoint(names):
                continue
            outcome = outcomes[i] = self._commit_alone(writes[i])
            if outcome is RETRY:
                self._locked |= names
            elif isinstance(outcome, StoreUnavailable) and outcome.down:
                return [outcome if each is RETRY else each for each in outcomes]
        return outcomes

    def _commit_alone(self, write: _Write) -> Any:
        try:
            with self._database.transaction(locks=write.locks, wait_s=LOCK_WAIT_S):
                return _perform([write])[0]
        except StoreBusy:
            return RETRY
        except Exception as error:  # noqa: BLE001  the caller of this write gets it, no other
            return error


def log_failed_write(what: str, write: asyncio.Future[Any]) -> None:
    """Log the failure of a write that no caller awaits.

    Args:
        what: begins the line, such as "cannot refund".
    """
    if (error := write.exception()) is not None:
        log.error("%s: %s", what, error)


def _perform(writes: Sequence[_Write]) -> list[Any]:
    """Call each function once, with the arguments of all its writes."""
    places: dict[Any, list[int]] = {}
    for place, write in enumerate(writes):
        places.setdefault(write.function, []).append(place)
    results: list[Any] = [None] * len(writes)
    for function, own in places.items():
        for place, result in zip(own, function([writes[i].argument for i in own]), strict=True):
            results[place] = result
    return results


def _call_all(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    return [call() for call in calls]


class StoreExecutor:
    """Calls outside of the shared transaction: reads, and calls with a transaction of their own.

    A file is called at once, unless it is locked. The error of a call reaches its caller alone. If
    a remote store does not answer a call, the calls behind it in the batch fail untried.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue = StoreQueue(database, _call_each)

    async def run(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call. It writes in one transaction at most, which comes first.

        Raises:
            StoreUnavailable: from the call, or its deadline passed.
        """
        if not self._database.remote:
            try:
                return self._database.try_now(call)
            except StoreBusy:
                pass
        return cast("Result", await self._queue.put(call))

    def close(self) -> None:
        self._queue.close()


def _call_each(calls: Sequence[Callable[[], Any]]) -> Sequence[Any]:
    outcomes: list[Any] = []
    for call in calls:
        try:
            outcomes.append(call())
        except Exception as error:  # noqa: BLE001  the caller of this item gets it, no other
            if isinstance(error, StoreUnavailable) and error.down:
                return outcomes + [error] * (len(calls) - len(outcomes))
            outcomes.append(error)
    return outcomes


class BatchedLookup(Generic[Result]):
    """Look-ups by text, batched into one query when the store is remote.

    A flood of bad keys then costs one query per batch.

    Args:
        find: looks up one text. It is called at once, if the store is a file.
        find_all: looks up any number of texts, in their order. It is called if the store is remote,
            or if the file is locked.
    """

    def __init__(
        self,
        database: Database,
        find: Callable[[str], Result],
        find_all: Callable[[Sequence[str]], Sequence[Result]],
    ) -> None:
        self._database = database
        self._find = find
        self._queue = StoreQueue(database, find_all)

    async def lookup(self, text: str) -> Result:
        """Return what the store has for one text.

        Raises:
            StoreUnavailable: from the query, or its deadline passed.
        """
        if not self._database.remote:
            try:
                return self._database.try_now(lambda: self._find(text))
            except StoreBusy:
                pass
        return cast("Result", await self._queue.put(text))

    def close(self) -> None:
        self._queue.close()
