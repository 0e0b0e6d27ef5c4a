"""The queue before a model: callers take turns, and what leaves gives its room back."""

import asyncio

import numpy as np
import pytest

from stingy_server.inference.batch_queue import BatchQueue, Job

pytestmark = pytest.mark.anyio


def job(caller: str, images: int = 1) -> Job:
    pixels = np.zeros((images, 1, 1, 3), np.uint8)
    return Job(pixels, asyncio.get_running_loop().create_future(), caller)


def callers(jobs: list[Job]) -> list[str]:
    return [each.caller for each in jobs]


async def test_S2_model_takes_requests_of_each_caller_in_turn() -> None:
    queue = BatchQueue(images=1000, nbytes=10_000, share=1.0)
    crowd = [job("a", 8) for _ in range(20)]
    for each in [*crowd, job("b"), job("c", 2), job("b", 3)]:
        queue.put(each)
    assert callers(queue.take(16)) == ["a", "b", "c"]
    assert callers(queue.take(16)) == ["a", "b"]
    assert queue.take(16) == crowd[2:4]
    assert queue.images == 8 * 16


async def test_S2_request_that_does_not_fit_is_the_next_one() -> None:
    queue = BatchQueue(images=1000, nbytes=10_000, share=1.0)
    for each in [job("a", 8), job("a", 8), job("b", 10)]:
        queue.put(each)
    assert callers(queue.take(16)) == ["a"]
    assert callers(queue.take(16)) == ["b"]
    assert callers(queue.take(4)) == ["a"]
    assert not queue
    assert queue.take(4) == []


async def test_L13_dropped_requests_give_their_room_back() -> None:
    queue = BatchQueue(images=10, nbytes=1000, share=1.0)
    jobs = [job("a", 2), job("a", 1), job("b", 3)]
    for each in jobs:
        queue.put(each)
    for each in [jobs[1], jobs[2], jobs[2]]:
        queue.drop(each)
    assert queue.take(10) == [jobs[0]]
    queue.release([jobs[0]])
    queue.put(job("c", 10))  # all of the room
