"""Dynamic batching on model threads: requests that wait together share a forward pass.

A request is answered or fails on its own: if a shared pass fails, each of its requests is retried
alone, so an error reaches only the request that caused it.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

from stingy_protection import SparseLogits
from stingy_server.codec.images import Pixels
from stingy_server.errors import DRAINING, ServiceError
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

# Clients that were answered together send their next requests together, a moment later. Without a
# wait for them, a pass for the first of them alone would delay all others.
WAIT_SHARE = 0.1  # of the last pass's time, before a pass of less than half as many requests
AnswerFunction = Callable[..., SparseLogits]  # of pixels, and of their flags if there are any


class ThreadBatcher:
    """Threads that answer images [batch, height, width, 3], and the bounded queue before them.

    Args:
        answer: the function of a pass, for any number of images. It gets their flags as a second
            argument if an image has one.
        batch_size: the most images of one call of `answer`.
        max_delay_s: the most seconds that a call waits for more requests.
        queue_images, queue_bytes, share: see `BatchQueue`.
        threads: concurrent calls of `answer`. More than one helps only if a device can copy and
            compute at the same time.
    """

    def __init__(
        self,
        answer: AnswerFunction,
        *,
        batch_size: int,
        max_delay_s: float,
        queue_images: int,
        queue_bytes: int,
        share: float,
        threads: int = 1,
    ) -> None:
        self._answer = answer
        self._batch_size = batch_size
        self._max_delay_s = max_delay_s
        self._queue = BatchQueue(images=queue_images, nbytes=queue_bytes, share=share)
        self._changed = threading.Condition()
        self._closing = False
        self._last_jobs = 0  # of the last pass
        self._last_s = 0.0
        self._threads = [
            threading.Thread(target=self._work, name="model", daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(self, images: Pixels, *, caller: str, flags: Flags | None = None) -> Answered:
        """Answer images [batch, height, width, 3] of a caller, in their order.

        Args:
            flags: one for each image, or None for no flags at all.

        Raises:
            ServiceError: if the queue is full or closing.
            Exception: the error that `answer` raised for these images.
        """
        loop, size = asyncio.get_running_loop(), self._batch_size
        # A large request waits in parts of a batch each, so that other callers come between them.
        jobs = [
            make_job(
                images[start : start + size],
                loop.create_future(),
                caller,
                None if flags is None else flags[start : start + size],
            )
            for start in range(0, len(images), size)
        ]
        with self._changed:
            if self._closing:
                raise ServiceError(DRAINING)
            self._queue.put(*jobs)
            self._changed.notify()
        if len(jobs) == 1:
            return await jobs[0].future
        return await _join([job.future for job in jobs])

    async def close(self) -> None:
        """Answer the requests that wait, then end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            await asyncio.get_running_loop().run_in_executor(None, thread.join)

    def _work(self) -> None:
        while jobs := self._take_batch():
            waiting = [job for job in jobs if not job.future.cancelled()]
            started = time.perf_counter()
            if waiting:
                self._run(waiting)
            self._last_jobs, self._last_s = len(waiting), time.perf_counter() - started
            with self._changed:
                self._queue.release(jobs)

    def _take_batch(self) -> list[Job]:
        """Wait for jobs and take a batch of them. Return none once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if self._max_delay_s:
                self._wait_for_more()
            few = 2 * len(self._queue) < self._last_jobs and not self._closing
        if few:
            time.sleep(WAIT_SHARE * self._last_s)
        with self._changed:
            return self._queue.take(self._batch_size)

    def _wait_for_more(self) -> None:
        deadline = time.monotonic() + self._max_delay_s
        while not self._closing and self._queue.images < self._batch_size:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not self._changed.wait(remaining):
                return

    def _run(self, jobs: list[Job]) -> None:
        try:
            flags = flags_of(jobs)
            arguments = (images_of(jobs),) if flags is None else (images_of(jobs), flags)
            answers = parts(self._answer(*arguments), jobs)
        # The thread must survive every error that a network or a policy may raise.
        except Exception as error:  # noqa: BLE001
            if len(jobs) == 1:
                _deliver(jobs, [error])
            else:
                for job in jobs:
                    self._run([job])
        else:
            _deliver(jobs, answers)


async def _join(futures: Sequence["asyncio.Future[Answered]"]) -> Answered:
    """Return the answer of a request from those of its parts. Cancel the rest if one fails."""
    try:
        answered = await asyncio.gather(*futures)
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    answer = SparseLogits.concatenate([part.answer for part in answered])
    return Answered(answer, sum(part.bits for part in answered))


def _deliver(jobs: list[Job], outcomes: Sequence[Answered | Exception]) -> None:
    """Wake the event loop once for all requests of a pass, unless the loop is closed."""
    loop = jobs[0].future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(resolve, jobs, outcomes)
