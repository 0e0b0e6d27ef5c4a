"""The batcher before an upstream: requests share passes, and each fails by its own fault alone."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numbered import caller_of, first_pixels, numbered
from stingy_protection import SparseLogits
from stingy_server.codec.images import Pixels
from stingy_server.errors import OVERLOADED, UPSTREAM_FAILED, UPSTREAM_TIMEOUT, ServiceError
from stingy_server.inference.async_batcher import AsyncBatcher
from stingy_server.inference.batch_queue import Answered

pytestmark = pytest.mark.anyio


def numbers(answered: Answered) -> list[int]:
    values: list[int] = answered.answer.indices.flatten().tolist()
    return values


class ControlledModel:
    """An upstream that answers when the test sets `free`."""

    def __init__(self, answer: Callable[[Pixels], SparseLogits] = first_pixels) -> None:
        self.answer = answer
        self.free = asyncio.Event()
        self.passes: list[list[int]] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, images: Pixels) -> SparseLogits:
        self.passes.append(images[:, 0, 0, 0].tolist())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.free.wait()
            return self.answer(images)
        finally:
            self.at_once -= 1


async def turns() -> None:
    """Let the event loop turn until all tasks wait for something else than a turn."""
    for _ in range(50):
        await asyncio.sleep(0)


def make(model: ControlledModel, **options: int) -> AsyncBatcher:
    limits = {"queue_images": 100, "queue_bytes": 10_000, "share": 1} | options
    return AsyncBatcher(model, **limits)


def submit_all(batcher: AsyncBatcher, *requests: Pixels) -> list[asyncio.Task[Answered]]:
    return [
        asyncio.create_task(batcher.submit(images, caller=caller_of(images))) for images in requests
    ]


async def test_requests_that_wait_for_a_free_pass_share_it() -> None:
    model = ControlledModel()
    batcher = make(model, batch_size=4, passes=2)
    waiting = []
    for number in range(8):
        waiting += submit_all(batcher, numbered(number))
        await turns()
    assert model.passes == [[0], [1]]
    model.free.set()
    assert [numbers(answer) for answer in await asyncio.gather(*waiting)] == [
        [number] for number in range(8)
    ]
    assert model.passes == [[0], [1], [2, 3, 4, 5], [6, 7]]
    assert model.most_at_once == 2


async def test_requests_of_one_turn_share_a_pass_unless_too_large() -> None:
    model = ControlledModel()
    model.free.set()
    batcher = make(model, batch_size=3, passes=4)
    requests = [numbered(1), numbered(2), numbered(3, 4, 5, 6, 7), numbered(8)]
    answers = await asyncio.gather(*submit_all(batcher, *requests))
    assert [numbers(answer) for answer in answers] == [[1], [2], [3, 4, 5, 6, 7], [8]]
    assert model.passes == [[1, 2, 8], [3, 4, 5, 6, 7]]


async def test_failing_image_fails_only_its_own_request() -> None:
    def fragile(images: Pixels) -> SparseLogits:
        if (images[:, 0, 0, 0] == 66).any():
            raise RuntimeError("66")
        return first_pixels(images)

    model = ControlledModel(fragile)
    model.free.set()
    batcher = make(model, batch_size=4, passes=1)
    tasks = submit_all(batcher, numbered(1), numbered(66), numbered(3))
    first, bad, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(bad, RuntimeError)
    assert isinstance(first, Answered)
    assert isinstance(third, Answered)
    assert (numbers(first), numbers(third)) == ([1], [3])


async def test_pass_that_timed_out_is_not_retried() -> None:
    def late(images: Pixels) -> SparseLogits:
        raise ServiceError(UPSTREAM_TIMEOUT)

    model = ControlledModel(late)
    model.free.set()
    batcher = make(model, batch_size=4, passes=1)
    tasks = submit_all(batcher, numbered(1), numbered(2))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, ServiceError) for outcome in outcomes)
    assert model.passes == [[1, 2]]


async def test_timeout_of_a_retried_request_ends_the_retries() -> None:
    def restarting(images: Pixels) -> SparseLogits:
        if len(images) > 1:
            raise ServiceError(UPSTREAM_FAILED)
        if images[0, 0, 0, 0] == 66:
            raise RuntimeError("66")
        if images[0, 0, 0, 0] > 2:
            raise ServiceError(UPSTREAM_TIMEOUT)
        return first_pixels(images)

    model = ControlledModel(restarting)
    model.free.set()
    batcher = make(model, batch_size=8, passes=1)
    tasks = submit_all(batcher, *(numbered(n) for n in (1, 66, 2, 3, 4, 5)))
    first, bad, second, *late = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, Answered)
    assert isinstance(second, Answered)
    assert (numbers(first), numbers(second)) == ([1], [2])
    assert isinstance(bad, RuntimeError)
    refusals = [error.refusal for error in late if isinstance(error, ServiceError)]
    assert refusals == [UPSTREAM_TIMEOUT] * 3
    assert model.passes[1:] == [[1], [66], [2], [3]]


async def test_L13_cancelled_request_joins_no_pass_shifts_no_answer() -> None:
    model = ControlledModel()
    batcher = make(model, batch_size=4, passes=1)
    (first,) = submit_all(batcher, numbered(1))
    await turns()
    second, cancelled, third = submit_all(batcher, numbered(2), numbered(66), numbered(3))
    await turns()
    cancelled.cancel()
    await turns()
    first.cancel()  # its pass is running and goes on
    model.free.set()
    assert numbers(await second) == [2]
    assert numbers(await third) == [3]
    assert model.passes == [[1], [2, 3]]


@pytest.mark.parametrize("limits", [{"queue_images": 3}, {"queue_bytes": 3 * 12}])
async def test_queue_is_bounded_in_images_and_bytes(limits: dict[str, int]) -> None:
    model = ControlledModel()
    batcher = make(model, batch_size=2, passes=1, **limits)
    running, *waiting = submit_all(batcher, *(numbered(n) for n in (1, 2, 3)))
    await turns()
    with pytest.raises(ServiceError) as refused:
        await batcher.submit(numbered(4), caller="4")
    assert refused.value.refusal is OVERLOADED
    running.cancel()  # its pass goes on and still occupies the room
    await turns()
    with pytest.raises(ServiceError):
        await batcher.submit(numbered(4), caller="4")
    model.free.set()
    await asyncio.gather(*waiting)
    await turns()
    later = submit_all(batcher, *(numbered(n) for n in (5, 6, 7)))
    assert [numbers(answer) for answer in await asyncio.gather(*later)] == [[5], [6], [7]]


async def test_request_cancelled_while_waiting_frees_its_room() -> None:
    model = ControlledModel()
    batcher = make(model, batch_size=1, passes=1, queue_images=3)
    (first,) = submit_all(batcher, numbered(1))
    await turns()
    for _ in range(10):
        cancelled = submit_all(batcher, numbered(2), numbered(3))
        await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        assert all(task.cancelled() for task in (await asyncio.wait(cancelled))[0])
    waiting = submit_all(batcher, numbered(4), numbered(5))
    model.free.set()
    assert [numbers(answer) for answer in await asyncio.gather(first, *waiting)] == [[1], [4], [5]]
    assert model.passes == [[1], [4], [5]]


async def test_request_cancelled_before_its_pass_frees_its_room() -> None:
    model = ControlledModel()
    model.free.set()
    batcher = make(model, batch_size=4, passes=1, queue_images=1)
    for _ in range(3):
        (cancelled,) = submit_all(batcher, numbered(1))
        await asyncio.sleep(0)  # it waits for the end of the turn
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert numbers(await batcher.submit(numbered(2), caller="2")) == [2]
        await turns()
    assert model.passes == [[2]] * 3


async def test_closing_waits_for_running_passes() -> None:
    model = ControlledModel()
    batcher = make(model, batch_size=1, passes=1)
    waiting = submit_all(batcher, numbered(1), numbered(2))
    await turns()
    closing = asyncio.create_task(batcher.close())
    await turns()
    assert not closing.done()
    model.free.set()
    await closing
    assert [numbers(await task) for task in waiting] == [[1], [2]]


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=20),
    batch_size=st.integers(1, 6),
    passes=st.integers(1, 3),
)
def test_every_request_gets_its_own_answer(sizes: list[int], batch_size: int, passes: int) -> None:
    async def submit() -> None:
        model = ControlledModel()
        model.free.set()
        batcher = make(model, batch_size=batch_size, passes=passes)
        requests = [numbered(*range(first, first + size)) for first, size in enumerate(sizes)]
        answers = await asyncio.gather(*submit_all(batcher, *requests))
        assert [numbers(answer) for answer in answers] == [
            list(range(first, first + size)) for first, size in enumerate(sizes)
        ]
        assert model.most_at_once <= passes

    asyncio.run(submit())
