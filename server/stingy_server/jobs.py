"""Requests that wait for their answers: taken in turn, a batch at a time, and told each its own."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stingy_protection import SparseLogits
from stingy_server.images import Pixels


@dataclass(frozen=True, eq=False)
class Job:
    """The images [batch, height, width, 3] of one request, and where its answer goes."""

    images: Pixels
    future: asyncio.Future[SparseLogits]


def take(waiting: deque[Job], room: int) -> list[Job]:
    """The next jobs whose images fit together, and the first however large it is."""
    taken: list[Job] = []
    while waiting and (not taken or len(waiting[0].images) <= room):
        job = waiting.popleft()
        taken.append(job)
        room -= len(job.images)
    return taken


def images_of(jobs: Sequence[Job]) -> Pixels:
    """All their images in one batch."""
    return jobs[0].images if len(jobs) == 1 else np.concatenate([job.images for job in jobs])


def parts(answer: SparseLogits, jobs: Sequence[Job]) -> list[SparseLogits]:
    """The answer of each job, of the one for all of them."""
    return answer.split([len(job.images) for job in jobs])


def settle(jobs: Sequence[Job], outcomes: Sequence[SparseLogits | Exception]) -> None:
    """Give each request its outcome, unless its client is gone."""
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.future.done():
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
