"""A network as CUDA graphs: it answers as the network does, at every size and from every thread."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serving import make_bundle, make_settings, random_images, start_one
from stingy_protection import SparseLogits
from stingy_server.inference.cuda_graphs import padded_sizes
from stingy_server.inference.grid_comparison import answers_agree
from stingy_server.models.endpoints import Endpoint


@given(st.integers(1, 5000))
def test_every_pass_fits_a_size_that_is_at_most_half_padding(batch_size: int) -> None:
    sizes = padded_sizes(batch_size, strict=False)
    assert sizes == tuple(sorted(set(sizes)))
    assert sizes[-1] == batch_size
    for count in range(1, batch_size + 1):
        assert min(size for size in sizes if size >= count) < 2 * count


def test_strict_needs_only_the_whole_batch() -> None:
    assert padded_sizes(48, strict=True) == (48,)


def start(tmp_path: Path, **options: Any) -> Endpoint:
    """Start a convolutional network on CUDA."""
    bundle = make_bundle(
        tmp_path / "b", factory="sample_networks:convolutional", policy="stingy:n=3", gain=3.0
    )
    return start_one(make_settings(tmp_path / "s", bundle, device="cuda", **options))


async def answer(endpoint: Endpoint, count: int) -> SparseLogits:
    return (await endpoint.engine.predict(random_images(count), caller="a")).answer


@pytest.mark.cuda
@pytest.mark.anyio
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
async def test_cuda_graphs_answer_as_torch_does(tmp_path: Path, precision: str) -> None:
    options = {"batch_size": 48, "precision": precision}
    replayed = start(tmp_path, runtime="cuda_graphs", **options)
    eager = start(tmp_path, runtime="torch", **options)
    for count in (1, 2, 4, 8, 16, 32, 48, 144):
        assert answers_agree(await answer(replayed, count), await answer(eager, count))
    await replayed.engine.close()
    await eager.engine.close()


@pytest.mark.cuda
@pytest.mark.anyio
async def test_P5_cuda_graphs_keep_concurrent_requests_apart(tmp_path: Path) -> None:
    endpoint = start(tmp_path, runtime="cuda_graphs", strict=True, batch_size=32)
    images = random_images(400)
    parts = [images[first : first + 4] for first in range(0, 400, 4)]
    separate = [(await endpoint.engine.predict(part, caller="a")).answer for part in parts]
    for _ in range(5):
        concurrent = await asyncio.gather(
            *(endpoint.engine.predict(part, caller="a") for part in parts)
        )
        for alone, together in zip(separate, concurrent, strict=True):
            assert torch.equal(alone.indices, together.answer.indices)
            assert alone.scores is not None
            assert together.answer.scores is not None
            assert torch.equal(alone.scores, together.answer.scores)
    await endpoint.engine.close()
