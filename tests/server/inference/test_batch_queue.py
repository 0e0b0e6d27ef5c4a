"""The queue before a model: callers in turn, room that comes back, nothing lost or starved."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from numbered import numbered
from stingy_server.inference.batch_queue import BatchQueue, Job, flags_of, make_job
from stingy_server.inference.flags import Flag

SIZES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), min_size=1, max_size=40)


def jobs_of(sizes: list[tuple[str, int]]) -> list[Job]:
    loop = asyncio.new_event_loop()
    try:
        return [Job(numbered(*range(size)), loop.create_future(), caller) for caller, size in sizes]
    finally:
        loop.close()


@given(SIZES, st.integers(1, 12))
def test_every_job_is_taken_once_in_its_callers_order(
    sizes: list[tuple[str, int]], at_most: int
) -> None:
    queue = BatchQueue(images=10_000, nbytes=10**9, share=1000.0)
    jobs = jobs_of(sizes)
    for job in jobs:
        queue.put(job)
    taken: list[Job] = []
    while batch := queue.take(at_most):
        assert len(batch) == 1 or sum(len(job.images) for job in batch) <= at_most
        taken += batch
        queue.release(batch)
    assert not queue
    for caller in "abc":
        own = [id(job) for job in jobs if job.caller == caller]
        assert [id(job) for job in taken if job.caller == caller] == own
    assert len(taken) == len(jobs)
    assert queue._room.free == 10_000


@given(st.integers(1, 40), st.integers(1, 8))
def test_S5_callers_are_served_in_turn(count: int, size: int) -> None:
    queue = BatchQueue(images=10_000, nbytes=10**9, share=1000.0)
    for job in jobs_of([("flood", size)] * count + [("honest", 1)]):
        queue.put(job)
    first, second = queue.take(8), queue.take(8)
    assert any(job.caller == "honest" for job in first + second)


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=9))
def test_flags_of_jobs_are_beside_their_images(jobs: list[tuple[int, bool]]) -> None:
    loop = asyncio.new_event_loop()
    made: list[Job] = []
    expected: list[Flag | None] = []
    for size, flagged in jobs:
        flags = [Flag(1, 1, True) for _ in range(size)] if flagged else None
        expected += flags or [None] * size
        made.append(make_job(numbered(*range(size)), loop.create_future(), "a", flags))
    loop.close()
    found = flags_of(made)
    if found is None:
        assert not any(flagged for _, flagged in jobs)
    else:
        assert any(flagged for _, flagged in jobs)
        assert [id(flag) for flag in found] == [id(flag) for flag in expected]
