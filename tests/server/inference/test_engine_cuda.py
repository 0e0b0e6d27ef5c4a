"""The embedded engine on CUDA: answers do not depend on the batch or on concurrent passes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from serving import make_bundle, make_settings, random_images, start_one
from stingy_protection import SparseLogits
from stingy_server.codec.images import Pixels
from stingy_server.inference.engine import EmbeddedEngine
from stingy_server.inference.flags import Flag, Flags
from stingy_server.models.endpoints import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.cuda]


def start(tmp_path: Path, **options: Any) -> Endpoint:
    """Start a convolutional network on CUDA."""
    bundle = make_bundle(
        tmp_path / "b", factory="sample_networks:convolutional", policy="stingy:n=3", gain=3.0
    )
    return start_one(make_settings(tmp_path / "s", bundle, **{"device": "cuda", **options}))


def same(left: SparseLogits, right: SparseLogits) -> bool:
    assert left.scores is not None
    assert right.scores is not None
    return torch.equal(left.indices, right.indices) and torch.equal(left.scores, right.scores)


async def test_cuda_engine_answers_are_on_the_cpu(tmp_path: Path) -> None:
    endpoint = start(tmp_path)
    answer = (await endpoint.engine.predict(random_images(20), caller="a")).answer
    await endpoint.engine.close()
    assert answer.indices.device.type == "cpu"


async def test_cuda_engine_agrees_with_the_cpu_engine(tmp_path: Path) -> None:
    images = random_images(512)
    answers = []
    for device in ("cuda", "cpu"):
        endpoint = start(tmp_path, device=device)
        answers.append((await endpoint.engine.predict(images, caller="a")).answer)
        await endpoint.engine.close()
    on_cuda, on_cpu = answers
    assert (on_cuda.indices[:, 0] == on_cpu.indices[:, 0]).float().mean() > 0.99
    assert on_cuda.scores is not None
    assert on_cpu.scores is not None
    torch.testing.assert_close(on_cuda.scores, on_cpu.scores, atol=0.05, rtol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
async def test_P5_cuda_strict_has_one_answer_over_batch_shapes(
    tmp_path: Path, precision: str
) -> None:
    endpoint = start(tmp_path, strict=True, precision=precision, batch_size=64)
    images = random_images(200)
    whole = (await endpoint.engine.predict(images, caller="a")).answer
    for size in (1, 3, 64, 100):
        for first in range(0, 200 - size, 37):
            part = (await endpoint.engine.predict(images[first : first + size], caller="a")).answer
            assert same(part, whole.rows(first, first + size))
    await endpoint.engine.close()


async def test_Y1_cuda_engine_marks_flagged_images_alone(tmp_path: Path) -> None:
    endpoint = start(tmp_path, strict=True, batch_size=64)
    images = random_images(100)
    plain = (await endpoint.engine.predict(images, caller="a")).answer
    flags = [Flag(2, 3, row % 10 == 7) for row in range(100)]
    marked = (await endpoint.engine.predict(images, caller="a", flags=flags)).answer
    await endpoint.engine.close()
    for row, flag in enumerate(flags):
        first = flag.best[2] if flag.marked else flag.best[0]
        assert marked.indices[row, 0] == first
        assert plain.indices[row, 0] == flag.best[0]
        assert same(marked.rows(row, row + 1), plain.rows(row, row + 1)) != flag.marked


async def test_cuda_concurrent_requests_keep_their_own_pixels(tmp_path: Path) -> None:
    """Check that no request gets another's pixels, though buffers and streams are reused."""
    endpoint = start(tmp_path, strict=True, batch_size=32)
    images = random_images(400)
    separate = [
        (await endpoint.engine.predict(images[n : n + 4], caller="a")).answer
        for n in range(0, 400, 4)
    ]
    for _ in range(5):
        concurrent = await asyncio.gather(
            *(endpoint.engine.predict(images[n : n + 4], caller="a") for n in range(0, 400, 4))
        )
        answers = [answered.answer for answered in concurrent]
        assert all(same(*pair) for pair in zip(separate, answers, strict=True))
    await endpoint.engine.close()


async def test_U5_cuda_out_of_memory_halves_only_its_own_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that a large batch is answered in smaller passes if the memory is capped."""
    endpoint = start(tmp_path, batch_size=16_384, queue_images=40_000)
    engine = endpoint.engine
    assert isinstance(engine, EmbeddedEngine)
    images = random_images(16_384)
    small = (await engine.predict(images[:8], caller="a")).answer
    # Let both threads allocate the libraries' own memory before it is capped.
    await asyncio.gather(*(engine.predict(images[:1024], caller="a") for _ in range(8)))
    passes: list[int] = []
    answer_pass = engine._answer_pass

    def record_pass(part: Pixels, flags: Flags | None) -> SparseLogits:
        passes.append(len(part))
        return answer_pass(part, flags)

    monkeypatch.setattr(engine, "_answer_pass", record_pass)
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 128 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
    try:
        answer, other = await asyncio.gather(
            engine.predict(images, caller="a"), engine.predict(images[:8], caller="a")
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    await engine.close()
    assert len(answer.answer) == 16_384
    assert len(passes) > 2
    assert torch.equal(other.answer.indices, small.indices)
