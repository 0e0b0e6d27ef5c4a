"""Requests that wait for their answers: taken in turn, a batch at a time, and told each its own.

No more wait or run than there is room for: who comes then is refused.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stingy_protection import SparseLogits
from stingy_server.codec.images import Pixels
from stingy_server.errors import OVERLOADED, ServiceError


@dataclass(frozen=True, eq=False)
class Job:
    """The images [batch, height, width, 3] of one request, and where its answer goes."""

    images: Pixels
    future: asyncio.Future[SparseLogits]


class BatchQueue:
    """The jobs that wait, and the room for them; whoever uses it from two threads locks it.

    Args:
        images, nbytes: what may be waiting or running at once.
    """

    def __init__(self, *, images: int, nbytes: int) -> None:
        self._free_images = images
        self._free_bytes = nbytes
        self._waiting: deque[Job] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def images(self) -> int:
        """How many wait."""
        return sum(len(job.images) for job in self._waiting)

    def put(self, job: Job) -> None:
        """Let a job wait; its room is taken until `release` or `drop`.

        Raises:
            ServiceError: there is not so much room.
        """
        if len(job.images) > self._free_images or job.images.nbytes > self._free_bytes:
            raise ServiceError(OVERLOADED)
        self._free_images -= len(job.images)
        self._free_bytes -= job.images.nbytes
        self._waiting.append(job)

    def take(self, at_most: int) -> list[Job]:
        """The next jobs whose images fit together, and the first however large it is."""
        taken: list[Job] = []
        while self._waiting and (not taken or len(self._waiting[0].images) <= at_most):
            job = self._waiting.popleft()
            taken.append(job)
            at_most -= len(job.images)
        return taken

    def release(self, jobs: Sequence[Job]) -> None:
        """Give back the room of jobs that were taken, and have run."""
        self._free_images += sum(len(job.images) for job in jobs)
        self._free_bytes += sum(job.images.nbytes for job in jobs)

    def drop(self, job: Job) -> None:
        """Forget a job whose client is gone, if it waits still."""
        if job in self._waiting:
            self._waiting.remove(job)
            self.release([job])


def images_of(jobs: Sequence[Job]) -> Pixels:
    """All their images in one batch."""
    return jobs[0].images if len(jobs) == 1 else np.concatenate([job.images for job in jobs])


def parts(answer: SparseLogits, jobs: Sequence[Job]) -> list[SparseLogits]:
    """The answer of each job, of the one for all of them."""
    return answer.split([len(job.images) for job in jobs])


def resolve(jobs: Sequence[Job], outcomes: Sequence[SparseLogits | Exception]) -> None:
    """Give each request its outcome, unless its client is gone."""
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.future.done():
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
