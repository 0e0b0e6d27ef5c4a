"""Dynamic batching before a model elsewhere: requests that wait together are asked together.

A request is answered or fails on its own: if a shared pass fails, each request in it is asked
again alone, so that an error reaches its owner and nobody else. Only a model elsewhere that is too
late is too late for all of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from stingy_protection import SparseLogits
from stingy_server.codec.images import Pixels
from stingy_server.errors import UPSTREAM_TIMEOUT, ServiceError
from stingy_server.inference.batch_queue import BatchQueue, Job, images_of, parts, resolve

PassFunction = Callable[[Pixels], Awaitable[SparseLogits]]


class AsyncBatcher:
    """The passes to a model elsewhere, and the requests that wait for one.

    Args:
        run_pass: what a pass does; it may take any number of images.
        batch_size: images gathered for one pass, unless one request brings more.
        passes: how many are under way at most. While one is free nobody waits for company.
        queue_images, queue_bytes: what may be waiting or under way at once.
    """

    def __init__(
        self,
        run_pass: PassFunction,
        *,
        batch_size: int,
        passes: int,
        queue_images: int,
        queue_bytes: int,
    ) -> None:
        self._run_pass = run_pass
        self._batch_size = batch_size
        self._free_passes = passes
        self._queue = BatchQueue(images=queue_images, nbytes=queue_bytes)
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, images: Pixels) -> SparseLogits:
        """The answer for images [batch, height, width, 3], in their order.

        Raises:
            ServiceError: the queue is full.
            Exception: what `run_pass` raised for them.
        """
        loop = asyncio.get_running_loop()
        if not self._queue:
            loop.call_soon(self._start_passes)  # with all that comes in this turn
        job = Job(images, loop.create_future())
        self._queue.put(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            self._queue.drop(job)
            raise

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._running:
            await asyncio.wait(self._running)

    def _start_passes(self) -> None:
        while self._free_passes and self._queue:
            taken = self._queue.take(self._batch_size)
            jobs = [job for job in taken if not job.future.done()]
            if not jobs:
                self._queue.release(taken)
                continue
            self._free_passes -= 1
            task = asyncio.create_task(self._run(jobs))
            self._running.add(task)
            task.add_done_callback(partial(self._finish_pass, taken))

    def _finish_pass(self, taken: Sequence[Job], task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._queue.release(taken)
        self._free_passes += 1
        self._start_passes()

    async def _run(self, jobs: Sequence[Job]) -> None:
        """Together; where that fails each alone, until the model elsewhere is too late."""
        error = await self._try_pass(jobs)
        for job in jobs:
            if not job.future.done() and not _too_late(error):
                error = await self._try_pass([job])
        if error is not None:
            resolve(jobs, [error] * len(jobs))  # those who have not been told yet

    async def _try_pass(self, jobs: Sequence[Job]) -> Exception | None:
        """Tell each its answer; what failed, which is told to one who asked alone."""
        try:
            resolve(jobs, parts(await self._run_pass(images_of(jobs)), jobs))
        except Exception as error:  # noqa: BLE001  whatever it was, nobody may wait for ever
            if len(jobs) == 1:
                resolve(jobs, [error])
            return error
        return None


def _too_late(error: Exception | None) -> bool:
    """Asked again, they would wait as long once more, one after the other."""
    return isinstance(error, ServiceError) and error.refusal is UPSTREAM_TIMEOUT
