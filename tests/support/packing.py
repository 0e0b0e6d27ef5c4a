"""Helpers to pack bundles with the command, and to query what they serve."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from serving import make_settings, running
from stingy_server.cli.main import app

# The numbers of pictures on which answers are compared. `make test-real` takes the large one.
COUNTS = pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.real)])
SIZES = ((300, 200), (224, 224), (97, 411), (640, 481), (31, 33), (256, 255))


def pack(*arguments: str | Path) -> Result:
    """Run `stingy bundle pack` with these arguments."""
    return CliRunner().invoke(app, ["bundle", "pack", *map(str, arguments)])


def check(folder: Path) -> Result:
    """Run `stingy bundle check` on a folder."""
    return CliRunner().invoke(app, ["bundle", "check", str(folder)])


def packed(*arguments: str | Path) -> str:
    """Run `stingy bundle pack`, and return what it prints. It must succeed."""
    result = pack(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def pictures(count: int, *, seed: int = 0, grey: bool = False) -> list[Image.Image]:
    """Make pictures of many sizes with coarse structure, so that networks differ on them."""
    generator = np.random.default_rng(seed)
    found = []
    for index in range(count):
        coarse = generator.integers(0, 256, (5, 7, 3), np.uint8)
        size = SIZES[index % len(SIZES)]
        picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        noise = generator.integers(0, 60, (size[1], size[0], 3), np.uint8)
        picture = ImageChops.add(picture, Image.fromarray(noise))
        found.append(picture.convert("L") if grey else picture)
    return found


def spread(network: nn.Module, transform: Callable[[Image.Image], Tensor]) -> nn.Module:
    """Set batch statistics and the last bias so that an untrained network's answers differ.

    Args:
        transform: the way from a picture to the network's input.
    """
    images = torch.stack([transform(picture) for picture in pictures(12, seed=7)])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
        rows = network.eval()(images)
        last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        last.bias.copy_(last.bias - rows.mean(dim=0))
    return network


async def served_labels(bundle: Path, state: Path, images: Sequence[Image.Image]) -> list[str]:
    """Serve a bundle in this process, and return the top-1 label of each image."""
    return [label for label, _ in await served_answers(bundle, state, images)]


async def served_answers(
    bundle: Path, state: Path, images: Sequence[Image.Image]
) -> list[tuple[str, float]]:
    """Serve a bundle in this process, and return the top-1 of each image with its score."""
    settings = make_settings(state, bundle)
    answers = []
    async with running(settings) as (client, _):
        for image in images:
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            response = await client.post(f"/v1/predict/{bundle.name}", content=buffer.getvalue())
            assert response.status_code == 200, response.text
            best = response.json()["answers"][0]["classes"][0]
            answers.append((best["label"], best.get("score", 0.0)))
    return answers
