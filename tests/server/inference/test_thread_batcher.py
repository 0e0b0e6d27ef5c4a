"""The batcher: requests share passes and never errors, the queue is bounded, no answer is lost."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from numbered import caller_of, first_pixels, numbered
from stingy_protection import SparseLogits
from stingy_server.codec.images import Pixels
from stingy_server.errors import DRAINING, OVERLOADED, ServiceError
from stingy_server.inference import thread_batcher
from stingy_server.inference.batch_queue import Answered
from stingy_server.inference.thread_batcher import ThreadBatcher

pytestmark = pytest.mark.anyio


def make(answer: Callable[[Pixels], SparseLogits], **options: int) -> ThreadBatcher:
    limits = {"batch_size": 4, "queue_images": 100, "queue_bytes": 10_000, "share": 1} | options
    return ThreadBatcher(answer, max_delay_s=0.0, **limits)


class GatedModel:
    """A model that answers when the test sets `free`, and records the size of each pass."""

    def __init__(self, answer: Callable[[Pixels], SparseLogits] = first_pixels) -> None:
        self.answer = answer
        self.free = threading.Event()
        self.passes: list[int] = []

    def __call__(self, images: Pixels) -> SparseLogits:
        self.free.wait(10)
        self.passes.append(len(images))
        return self.answer(images)


class Recorder:
    """A model that records the numbers of each pass."""

    def __init__(self) -> None:
        self.passes: list[list[int]] = []

    def __call__(self, images: Pixels) -> SparseLogits:
        self.passes.append(images[:, 0, 0, 0].tolist())
        return first_pixels(images)


async def test_waiting_requests_share_a_pass_and_get_their_own_answers() -> None:
    model = GatedModel()
    batcher = make(model)
    requests = [numbered(1), numbered(2, 3), numbered(4), numbered(5), numbered(6, 7, 8, 9, 10)]
    tasks = [
        asyncio.create_task(batcher.submit(images, caller=caller_of(images))) for images in requests
    ]
    await asyncio.sleep(0.05)
    model.free.set()
    answers = await asyncio.gather(*tasks)
    assert [a.answer.indices.flatten().tolist() for a in answers] == [
        images[:, 0, 0, 0].tolist() for images in requests
    ]
    assert max(model.passes) == 4  # a request larger than a batch waits in parts
    assert len(model.passes) < len(requests)
    await batcher.close()


async def test_failing_image_fails_only_its_own_request() -> None:
    def fragile(images: Pixels) -> SparseLogits:
        if (images[:, 0, 0, 0] == 66).any():
            raise RuntimeError("66")
        return first_pixels(images)

    model = GatedModel(fragile)
    batcher = make(model)
    tasks = [
        asyncio.create_task(batcher.submit(images, caller=caller_of(images)))
        for images in (numbered(1), numbered(2), numbered(66), numbered(3))
    ]
    await asyncio.sleep(0.05)
    model.free.set()
    first, second, bad, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(bad, RuntimeError)
    for answer, number in ((first, 1), (second, 2), (third, 3)):
        assert isinstance(answer, Answered)
        assert answer.answer.indices.item() == number
    await batcher.close()


async def submit_until_there_is_room(batcher: ThreadBatcher, images: Pixels) -> int:
    """Submit one image until there is room. A pass frees its room after its last answer."""
    while True:
        try:
            answered = await batcher.submit(images, caller=caller_of(images))
            return int(answered.answer.indices.item())
        except ServiceError as error:
            assert error.refusal is OVERLOADED  # noqa: PT017
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("limits", [{"queue_images": 3}, {"queue_bytes": 3 * 12}])
async def test_queue_is_bounded_in_images_and_bytes(limits: dict[str, int]) -> None:
    model = GatedModel()
    batcher = make(model, **limits)
    waiting = [asyncio.create_task(batcher.submit(numbered(n), caller=str(n))) for n in (1, 2, 3)]
    await asyncio.sleep(0.05)
    with pytest.raises(ServiceError) as refused:
        await batcher.submit(numbered(4), caller="4")
    assert refused.value.refusal is OVERLOADED
    model.free.set()
    await asyncio.gather(*waiting)
    assert await submit_until_there_is_room(batcher, numbered(5)) == 5
    await batcher.close()


async def test_closing_answers_waiting_requests_and_refuses_new_ones() -> None:
    model = GatedModel()
    batcher = make(model)
    waiting = [asyncio.create_task(batcher.submit(numbered(n), caller=str(n))) for n in range(10)]
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0.05)
    with pytest.raises(ServiceError) as refused:
        await batcher.submit(numbered(1), caller="1")
    assert refused.value.refusal is DRAINING
    model.free.set()
    await closing
    assert [a.answer.indices.item() for a in await asyncio.gather(*waiting)] == list(range(10))


async def test_L13_cancelled_request_takes_no_pass_shifts_no_answer() -> None:
    model = GatedModel()
    batcher = make(model, batch_size=1)
    tasks = [asyncio.create_task(batcher.submit(numbered(n), caller=str(n))) for n in (1, 2, 3)]
    await asyncio.sleep(0.05)
    tasks[1].cancel()
    await asyncio.sleep(0)
    model.free.set()
    assert (await tasks[0]).answer.indices.item() == 1
    assert (await tasks[2]).answer.indices.item() == 3
    assert model.passes == [1, 1]
    await batcher.close()


async def test_two_threads_run_two_passes_at_once() -> None:
    both_running = threading.Barrier(2, timeout=10)

    def answer(images: Pixels) -> SparseLogits:
        both_running.wait()
        return first_pixels(images)

    batcher = make(answer, batch_size=1, threads=2)
    answers = await asyncio.gather(*(batcher.submit(numbered(n), caller=str(n)) for n in (1, 2)))
    await batcher.close()
    assert [each.answer.indices.item() for each in answers] == [1, 2]


async def test_first_of_many_returning_clients_waits_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(thread_batcher, "WAIT_SHARE", 1.0)
    sizes = []

    def slow(images: Pixels) -> SparseLogits:
        sizes.append(len(images))
        time.sleep(0.5)
        return first_pixels(images)

    batcher = make(slow, batch_size=8)
    for _ in range(2):
        first = asyncio.create_task(batcher.submit(numbered(0), caller="0"))
        await asyncio.sleep(0.01)  # of the half second that the second pass waits
        await asyncio.gather(first, *(batcher.submit(numbered(n), caller=str(n)) for n in range(7)))
    await batcher.close()
    assert sizes == [1, 7, 8]


async def test_lone_client_never_waits_for_others() -> None:
    batcher = make(first_pixels)
    started = time.perf_counter()
    for number in range(50):
        await batcher.submit(numbered(number), caller="a")
    await batcher.close()
    assert time.perf_counter() - started < 5


async def test_S5_flood_of_one_key_delays_another_by_a_pass() -> None:
    model = GatedModel(record := Recorder())
    batcher = make(model, queue_images=1000, queue_bytes=100_000)
    flood = [
        asyncio.create_task(batcher.submit(numbered(*range(40)), caller="flood")) for _ in range(5)
    ]
    await asyncio.sleep(0.05)  # the first pass has begun
    honest = asyncio.create_task(batcher.submit(numbered(99), caller="honest"))
    await asyncio.sleep(0.05)
    model.free.set()
    for each in await asyncio.gather(*flood):
        assert each.answer.indices.flatten().tolist() == list(range(40))
    assert (await honest).answer.indices.item() == 99
    position = next(place for place, numbers in enumerate(record.passes) if 99 in numbers)
    assert position <= 2 < len(record.passes) - 40
    await batcher.close()


async def test_part_of_a_request_that_fails_fails_the_whole_request() -> None:
    def fragile(images: Pixels) -> SparseLogits:
        if (images[:, 0, 0, 0] == 66).any():
            raise RuntimeError("66")
        return first_pixels(images)

    batcher = make(fragile)
    with pytest.raises(RuntimeError, match="66"):
        await batcher.submit(numbered(1, 2, 3, 4, 5, 66, 7, 8, 9), caller="a")
    answered = await batcher.submit(numbered(*range(9)), caller="a")
    assert answered.answer.indices.flatten().tolist() == list(range(9))
    await batcher.close()
    assert not batcher._queue
    assert batcher._queue._room.free == 100
