"""The pixels and inputs of a model equal those of torchvision's transforms, bit for bit."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2  # type: ignore[import-untyped]
from torchvision.transforms import functional as v1

from stingy_protection import Preprocessing
from stingy_protection.bundles.preprocessing import Channels, Interpolation
from stingy_server.codec.transforms import FILTERS, fits_already, transform
from stingy_server.inference.forward import Forward

CASES = 1000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINDS = ("exact", "shorter", "to", "crop")


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def cases(kind: str) -> list[tuple[tuple[int, int], Preprocessing]]:
    """Draw image sizes and preprocessings, over all interpolations and both channels."""
    draw = random.Random(kind)
    found = []
    for number in range(CASES // len(KINDS)):
        size = draw.randint(1, 90), draw.randint(1, 90)
        channels: Channels = 1 if number % 5 == 0 else 3
        interpolation: Interpolation = tuple(FILTERS)[number % len(FILTERS)]
        preprocessing = Preprocessing(
            size=size,
            mean=MEAN[:channels],
            std=STD[:channels],
            resize_shorter=max(size) + draw.randint(0, 30) if kind == "shorter" else None,
            resize_to=(size[0] + draw.randint(0, 30), size[1] + draw.randint(0, 30))
            if kind == "to"
            else None,
            crop=kind == "crop",
            interpolation=interpolation,
            channels=channels,
        )
        found.append(((draw.randint(1, 160), draw.randint(1, 160)), preprocessing))
    return found


def torchvision_steps(preprocessing: Preprocessing) -> v2.Compose:
    mode = InterpolationMode(preprocessing.interpolation)
    steps: list[torch.nn.Module] = []
    if preprocessing.channels == 1:
        steps.append(v2.Grayscale(1))
    if preprocessing.resize_shorter is not None:
        steps.append(v2.Resize(preprocessing.resize_shorter, interpolation=mode))
    elif preprocessing.resize_to is not None:
        steps.append(v2.Resize(preprocessing.resize_to, interpolation=mode))
    elif not preprocessing.crop:
        steps.append(v2.Resize(preprocessing.size, interpolation=mode))
    if preprocessing.crop:
        steps.append(v2.CenterCrop(preprocessing.size))
    return v2.Compose([*steps, v2.Identity()])


@pytest.mark.parametrize("kind", KINDS)
def test_B3_pixels_and_inputs_equal_torchvisions(kind: str) -> None:
    differing = 0
    for size, preprocessing in cases(kind):
        image = picture(*size)
        expected = torchvision_steps(preprocessing)(image)
        pixels = transform(image, preprocessing)
        assert pixels.shape == (*preprocessing.size, 3)
        assert np.array_equal(
            pixels[..., : preprocessing.channels].squeeze(),
            np.asarray(expected).squeeze(),
        ), preprocessing
        if fits_already(size, preprocessing):
            assert np.array_equal(pixels, np.asarray(image))
        normalised = v1.normalize(
            v1.to_tensor(expected), list(preprocessing.mean), list(preprocessing.std)
        )
        forward = Forward(
            torch.nn.Identity(), preprocessing=preprocessing, device=torch.device("cpu")
        )
        inputs = forward.inputs(torch.from_numpy(pixels.copy())[None])
        assert torch.equal(inputs[0], normalised)
        differing += size != preprocessing.size[::-1]
    assert differing > CASES // len(KINDS) / 2


@pytest.mark.parametrize("contiguous", [False, True])
def test_B3_whole_batch_is_normalised_like_one_image(contiguous: bool) -> None:
    preprocessing = Preprocessing(size=(17, 13), mean=MEAN, std=STD)
    images = np.stack([transform(picture(50 + i, 60), preprocessing) for i in range(7)])
    forward = Forward(
        torch.nn.Identity(),
        preprocessing=preprocessing,
        device=torch.device("cpu"),
        contiguous=contiguous,
    )
    inputs = forward.inputs(torch.from_numpy(images))
    assert inputs.is_contiguous() == contiguous
    for image, found in zip(images, inputs, strict=True):
        assert torch.equal(found, v1.normalize(v1.to_tensor(Image.fromarray(image)), MEAN, STD))
