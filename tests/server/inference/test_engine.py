"""The embedded engine: it returns the gate's answer and nothing more."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from serving import PREPROCESSING, make_bundle, make_settings, random_images, start_one
from stingy_protection import SparseLogits, Stingy, read_manifest, sanitize, verified_weights
from stingy_server.inference.engine import EmbeddedEngine
from stingy_server.inference.forward import Forward
from stingy_server.models.endpoints import Endpoint

pytestmark = pytest.mark.anyio
IMAGES = random_images(20)


def load(tmp_path: Path, *, num_classes: int = 10, **options: Any) -> Endpoint:
    bundle = make_bundle(tmp_path / f"b{num_classes}", num_classes=num_classes, policy="stingy:n=3")
    settings = make_settings(tmp_path / "s", bundle, **options)
    return start_one(settings)


async def test_L5_bytes_from_the_worker_do_not_grow_with_the_classes(tmp_path: Path) -> None:
    sizes = set()
    for num_classes in (10, 1000):
        endpoint = load(tmp_path, num_classes=num_classes)
        answer = (await endpoint.engine.predict(IMAGES, caller="a")).answer
        sizes.add(len(pickle.dumps((answer.indices, answer.scores))))
        await endpoint.engine.close()
    assert len(sizes) == 1


async def test_answers_are_the_gates_for_the_networks_logits(tmp_path: Path) -> None:
    endpoint = load(tmp_path, batch_size=7)  # three passes
    answer = (await endpoint.engine.predict(IMAGES, caller="a")).answer
    await endpoint.engine.close()

    folder = tmp_path / "b10"
    weights = verified_weights(folder, read_manifest(folder))
    inputs = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    logits = inputs.flatten(1) @ weights["1.weight"].T + weights["1.bias"]
    expected = sanitize(endpoint.policy, logits)
    assert torch.equal(answer.indices, expected.indices)
    assert answer.scores is not None
    assert expected.scores is not None
    torch.testing.assert_close(answer.scores, expected.scores, atol=1.1e-3, rtol=0)


@pytest.mark.parametrize("options", [{"strict": True}, {"precision": "bfloat16"}])
async def test_strict_and_bfloat16_answer_in_the_form_of_the_policy(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    endpoint = load(tmp_path, **options)
    answer: SparseLogits = (await endpoint.engine.predict(IMAGES, caller="a")).answer
    await endpoint.engine.close()
    assert answer.indices.shape == (20, 3)
    assert answer.scores is not None
    assert np.isfinite(answer.scores.numpy()).all()


async def test_P5_without_strict_scores_move_by_at_most_one_step(tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path / "b", factory="sample_networks:convolutional", policy="stingy:n=3", gain=3.0
    )
    endpoint = start_one(make_settings(tmp_path / "s", bundle))
    images = random_images(256)
    batched = (await endpoint.engine.predict(images, caller="a")).answer
    singles = [(await endpoint.engine.predict(image[None], caller="a")).answer for image in images]
    await endpoint.engine.close()
    assert batched.scores is not None
    moved = 0
    for row, single in enumerate(singles):
        assert single.scores is not None
        assert torch.equal(batched.indices[row], single.indices[0])
        steps = ((batched.scores[row] - single.scores[0]) * 1000).round().abs()
        assert steps.max() <= 1
        moved += int(steps.max() > 0)
    assert moved <= 0.01 * len(images)


async def test_P5_keyed_noise_is_the_same_for_the_same_pixels(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", policy="keyed_noise")
    answers = []
    for options in ({}, {"batch_size": 3}):  # the second time with other batches
        endpoint = start_one(make_settings(tmp_path / "s", bundle, strict=True, **options))
        answers.append((await endpoint.engine.predict(IMAGES, caller="a")).answer)
        single = (await endpoint.engine.predict(IMAGES[7:8], caller="a")).answer
        assert torch.equal(single.indices[0], answers[-1].indices[7])
        assert single.scores is not None
        assert answers[-1].scores is not None
        assert torch.equal(single.scores[0], answers[-1].scores[7])
        await endpoint.engine.close()
    assert torch.equal(answers[0].indices, answers[1].indices)


class Cramped:
    """A network on a device with memory for `images` images at once."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.passes: list[int] = []

    def __call__(self, inputs: Tensor) -> Tensor:
        self.passes.append(len(inputs))
        if len(inputs) > self.images:
            raise torch.OutOfMemoryError("more than there is")
        return inputs.flatten(1)[:, :10]


def cramped(images: int, tmp_path: Path, **options: Any) -> tuple[EmbeddedEngine, Cramped]:
    network = Cramped(images)
    engine = EmbeddedEngine(
        Forward(network, preprocessing=PREPROCESSING, device=torch.device("cpu")),
        policy=Stingy(num_classes=10, n=3),
        settings=make_settings(tmp_path, **options),
        secret=bytes(16),
    )
    return engine, network


async def test_U5_out_of_memory_halves_the_batch_and_answers_all(tmp_path: Path) -> None:
    engine, network = cramped(6, tmp_path)
    roomy, _ = cramped(100, tmp_path)
    answer, expected = (
        (await engine.predict(IMAGES, caller="a")).answer,
        (await roomy.predict(IMAGES, caller="a")).answer,
    )
    await engine.close()
    await roomy.close()
    assert network.passes == [20, 10, 5, 5, 10, 5, 5]
    assert torch.equal(answer.indices, expected.indices)


async def test_U5_out_of_memory_for_one_image_is_an_error(tmp_path: Path) -> None:
    engine, _ = cramped(0, tmp_path)
    with pytest.raises(torch.OutOfMemoryError):
        await engine.predict(IMAGES[:1], caller="a")
    await engine.close()


async def test_U5_strict_does_not_halve_its_batch(tmp_path: Path) -> None:
    engine, network = cramped(6, tmp_path, strict=True, batch_size=8)
    with pytest.raises(torch.OutOfMemoryError):
        await engine.predict(IMAGES[:8], caller="a")
    await engine.close()
    assert network.passes == [8]
