"""Dynamic batching in front of an upstream: requests that wait together share a pass.

A request is answered or fails on its own: if a shared pass fails, each of its requests is retried
alone, so an error reaches only the request that caused it. If the upstream times out, all requests
of the batch fail. They are not retried one by one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from stingy_protection import SparseLogits
from stingy_server.codec.images import Pixels
from stingy_server.errors import UPSTREAM_TIMEOUT, ServiceError
from stingy_server.inference.batch_queue import (
    Answered,
    BatchQueue,
    Job,
    flags_of,
    images_of,
    make_job,
    parts,
    resolve,
)
from stingy_server.inference.flags import Flags

# Of pixels, and of their flags if there are any.
PassFunction = Callable[..., Awaitable[SparseLogits]]


class AsyncBatcher:
    """The passes to an upstream, and the requests that wait for a pass.

    Args:
        run_pass: the function of a pass, for any number of images. It gets their flags as a second
            argument if an image has one.
        batch_size: the most images of one pass, unless one request has more.
        passes: the most concurrent passes. While one is free, no request waits for others.
        queue_images, queue_bytes, share: see `BatchQueue`.
    """

    def __init__(
        self,
        run_pass: PassFunction,
        *,
        batch_size: int,
        passes: int,
        queue_images: int,
        queue_bytes: int,
        share: float,
    ) -> None:
        self._run_pass = run_pass
        self._batch_size = batch_size
        self._free_passes = passes
        self._queue = BatchQueue(images=queue_images, nbytes=queue_bytes, share=share)
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, images: Pixels, *, caller: str, flags: Flags | None = None) -> Answered:
        """Answer images [batch, height, width, 3] of a caller, in their order.

        Args:
            flags: one for each image, or None for no flags at all.

        Raises:
            ServiceError: if the queue is full.
            Exception: the error that `run_pass` raised for these images.
        """
        loop = asyncio.get_running_loop()
        if not self._queue:
            loop.call_soon(self._start_passes)  # with all requests of this turn
        job = make_job(images, loop.create_future(), caller, flags)
        self._queue.put(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            self._queue.drop(job)
            raise

    async def close(self) -> None:
        """Wait until all passes have ended."""
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
        """Run jobs in one pass. If it fails, run each alone until the upstream times out."""
        error = await self._try_pass(jobs)
        for job in jobs:
            if not job.future.done() and not _is_timeout(error):
                error = await self._try_pass([job])
        if error is not None:
            resolve(jobs, [error] * len(jobs))  # only those without an outcome

    async def _try_pass(self, jobs: Sequence[Job]) -> Exception | None:
        """Run one pass and give each job its answer. Return the error of a failed pass.

        The error becomes the outcome of a job only if the job ran alone.
        """
        try:
            flags = flags_of(jobs)
            arguments = (images_of(jobs),) if flags is None else (images_of(jobs), flags)
            resolve(jobs, parts(await self._run_pass(*arguments), jobs))
        except Exception as error:  # noqa: BLE001  after any error, no request may wait for ever
            if len(jobs) == 1:
                resolve(jobs, [error])
            return error
        return None


def _is_timeout(error: Exception | None) -> bool:
    """Return true for a timeout, after which retries would each wait as long again."""
    return isinstance(error, ServiceError) and error.refusal is UPSTREAM_TIMEOUT
