"""Threads that decode and resize images, shared fairly by the callers.

Each caller has a queue. A thread that is free takes one unit of work from the next caller in turn,
so a caller with hundreds of large pictures delays another one's picture by about one unit.
"""

import asyncio
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from stingy_server.errors import OVERLOADED, ServiceError
from stingy_server.shares import Shares

# Decoding releases the interpreter's lock, so a thread a core is useful; more only make each other
# wait. Two are the least, so that one picture that takes long never stops all others.
THREADS = max(2, len(os.sched_getaffinity(0)))
QUEUED_REQUESTS = 16  # the capacity of a pool, in requests of the largest size
Result = TypeVar("Result")


class _Job:
    """The units of one request: those not yet begun, and the results so far."""

    __slots__ = ("begun", "finished", "future", "loop", "results", "units")

    def __init__(self, units: Sequence[Callable[[], Any]]) -> None:
        self.units = units
        self.results: list[Any] = [None] * len(units)
        self.begun = self.finished = 0
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Any]] = self.loop.create_future()


class DecodePool:
    """Decoding threads with a queue for each caller, served in turn.

    A caller may have queued work up to its share of the capacity, see `Shares`.

    Args:
        capacity: the cost of all work that may be queued or running, in pixels.
        share: what a caller may have queued, as a multiple of what is free.
        threads: the number of threads. They start when there is work.
    """

    def __init__(self, *, capacity: int, share: float = 1.0, threads: int = THREADS) -> None:
        self._capacity = capacity
        self._shares = Shares(capacity, share=share)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._lock = threading.Lock()  # guards the queues and the jobs in them
        self._queues: OrderedDict[str, deque[_Job]] = OrderedDict()

    async def run(
        self, caller: str, units: Sequence[Callable[[], Result]], *, cost: int
    ) -> list[Result]:
        """Run the units of a request in the threads, and return their results in order.

        If the request is cancelled or a unit fails, its units that have not begun are dropped.

        Args:
            caller: the owner of the request, such as a key's id.
            units: functions without arguments, at least one. Each should be short, because other
                callers wait for it.
            cost: the cost of all units together, in pixels.

        Raises:
            ServiceError: overloaded, if the caller has its share of the queue already.
            Exception: what a unit raises.
        """
        cost = min(max(cost, 1), self._capacity)  # so that a request alone is always admitted
        if not self._shares.take(caller, cost):
            raise ServiceError(OVERLOADED)
        job = _Job(units)
        try:
            with self._lock:
                self._queues.setdefault(caller, deque()).append(job)
            for _ in units:
                self._executor.submit(self._run_next)
            return await job.future
        finally:
            self._drop(caller, job)
            self._shares.give_back(caller, cost)

    def close(self) -> None:
        """Drop the queued work and end the threads when their units are done."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run_next(self) -> None:
        taken = self._take_unit()
        if taken is None:  # its job was dropped
            return
        job, index = taken
        try:
            result = job.units[index]()
        except BaseException as error:  # noqa: BLE001  it ends the request that waits for it
            job.loop.call_soon_threadsafe(_fail, job.future, error)
            return
        job.results[index] = result
        with self._lock:
            job.finished += 1
            complete = job.finished == len(job.units)
        if complete:
            job.loop.call_soon_threadsafe(_finish, job)

    def _take_unit(self) -> tuple[_Job, int] | None:
        """Return the next unit: of the next caller in turn, and of its next request in turn."""
        with self._lock:
            if not self._queues:
                return None
            caller, jobs = next(iter(self._queues.items()))
            job = jobs.popleft()
            index = job.begun
            job.begun += 1
            if job.begun < len(job.units):
                jobs.append(job)
            if jobs:
                self._queues.move_to_end(caller)
            else:
                del self._queues[caller]
            return job, index

    def _drop(self, caller: str, job: _Job) -> None:
        with self._lock:
            jobs = self._queues.get(caller)
            if jobs is not None and job in jobs:
                jobs.remove(job)
                if not jobs:
                    del self._queues[caller]


def _finish(job: _Job) -> None:
    if not job.future.done():
        job.future.set_result(job.results)


def _fail(future: asyncio.Future[list[Any]], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
