"""A bounded queue of requests, taken in batches from each caller in turn.

A request is refused if there is no room for it beside those that wait or run.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from stingy_protection import SparseLogits, leak_bits, row_bits
from stingy_server.codec.images import Pixels
from stingy_server.errors import OVERLOADED, ServiceError
from stingy_server.inference.flags import Flag, Flags
from stingy_server.shares import Shares


@dataclass(frozen=True, eq=False)
class Job:
    """The images [batch, height, width, 3] of one request, and the future of its answer.

    Attributes:
        caller: the id of the key that sent the request.
    """

    images: Pixels
    future: "asyncio.Future[Answered]"
    caller: str


@dataclass(frozen=True, eq=False)
class FlaggedJob(Job):
    """A job with flags on some of its images."""

    flags: Flags


class Answered(NamedTuple):
    """The answer to one request, and the leak meter's bits over it."""

    answer: SparseLogits
    bits: float


class BatchQueue:
    """The jobs that wait, and the room for jobs that wait or run. Callers are served in turn.

    The queue has no lock. Users with several threads must lock it.

    Args:
        images, nbytes: the most images and bytes that may wait or run at once.
        share: what a caller may hold of both, as a multiple of what is free.
    """

    def __init__(self, *, images: int, nbytes: int, share: float) -> None:
        self._room = Shares(images, share=share)
        self._memory = Shares(nbytes, share=share)
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # by caller, the next first

    def __len__(self) -> int:
        """Return the number of jobs that wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def images(self) -> int:
        """The number of images that wait."""
        return sum(len(job.images) for jobs in self._waiting.values() for job in jobs)

    def put(self, *jobs: Job) -> None:
        """Add the jobs of one request, or none. They occupy room until `release` or `drop`.

        Raises:
            ServiceError: if they exceed what is left of the room, or of their caller's share.
        """
        caller = jobs[0].caller
        images = sum(len(job.images) for job in jobs)
        if not self._room.take(caller, images):
            raise ServiceError(OVERLOADED)
        if not self._memory.take(caller, sum(job.images.nbytes for job in jobs)):
            self._room.give_back(caller, images)
            raise ServiceError(OVERLOADED)
        self._waiting.setdefault(caller, deque()).extend(jobs)

    def take(self, at_most: int) -> list[Job]:
        """Remove and return the next jobs, with at most `at_most` images in all.

        Each caller in turn gives its next job, if that still fits. The first job is taken even if
        it has more images.
        """
        taken: list[Job] = []
        left = at_most
        found = True
        while found:
            found = False
            for caller, jobs in [*self._waiting.items()]:
                if taken and len(jobs[0].images) > left:
                    continue
                taken.append(jobs.popleft())
                left -= len(taken[-1].images)
                found = True
                if jobs:
                    self._waiting.move_to_end(caller)
                else:
                    del self._waiting[caller]
        return taken

    def release(self, jobs: Sequence[Job]) -> None:
        """Free the room of jobs that were taken and have run."""
        for job in jobs:
            self._room.give_back(job.caller, len(job.images))
            self._memory.give_back(job.caller, job.images.nbytes)

    def drop(self, job: Job) -> None:
        """Remove a job whose client has left, if it still waits."""
        jobs = self._waiting.get(job.caller)
        if jobs is not None and job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._waiting[job.caller]
            self.release([job])


def images_of(jobs: Sequence[Job]) -> Pixels:
    """Join the images of jobs into one batch."""
    return jobs[0].images if len(jobs) == 1 else np.concatenate([job.images for job in jobs])


def make_job(
    images: Pixels, future: "asyncio.Future[Answered]", caller: str, flags: Flags | None
) -> Job:
    """Make a job, with flags if there are any."""
    if flags is None:
        return Job(images, future, caller)
    return FlaggedJob(images, future, caller, flags)


def flags_of(jobs: Sequence[Job]) -> Flags | None:
    """Join the flags of jobs, as `images_of` joins their images. Return None if no job has any."""
    for job in jobs:
        if isinstance(job, FlaggedJob):
            break
    else:
        return None
    joined: list[Flag | None] = []
    for job in jobs:
        joined += job.flags if isinstance(job, FlaggedJob) else [None] * len(job.images)
    return joined


def parts(answer: SparseLogits, jobs: Sequence[Job]) -> list[Answered]:
    """Split the answer for a batch into the answers of its jobs, each with its leak in bits."""
    sizes = [len(job.images) for job in jobs]
    if len(jobs) == 1:
        return [Answered(answer, leak_bits(answer))]
    stops = list(accumulate(sizes, initial=0))
    bits = np.add.reduceat(row_bits(answer), stops[:-1]).tolist()
    return [Answered(*each) for each in zip(answer.split(sizes), bits, strict=True)]


def resolve(jobs: Sequence[Job], outcomes: Sequence[Answered | Exception]) -> None:
    """Give each job its answer or error, unless it has one or its client has left."""
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.future.done():
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
