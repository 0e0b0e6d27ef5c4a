"""Packed programs and own networks: the served top-1 is that of the source's own pipeline."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2  # type: ignore[import-untyped]

from packing import COUNTS, packed, pictures, served_answers, served_labels, spread
from stingy_server.inference.export import export_program, to_onnx

pytestmark = pytest.mark.anyio

LABELS = ("cat", "dog", "bird", "fish", "horse")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pipeline(size: int, *, grey: bool = False, bicubic: bool = False) -> v2.Compose:
    """Make the transform of a training script."""
    how = v2.InterpolationMode.BICUBIC if bicubic else v2.InterpolationMode.BILINEAR
    scale = ((0.5,), (0.5,)) if grey else (MEAN, STD)
    steps = [v2.Grayscale()] if grey else [v2.RGB()]
    steps += [v2.Resize((size, size), interpolation=how), v2.ToImage()]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(*scale)])


class Channelled(nn.Module):
    """A network that takes images in the order NHWC, as exports of TensorFlow do."""

    def __init__(self, network: nn.Module, *, softmax: bool) -> None:
        super().__init__()
        self.network, self.softmax = network, softmax

    def forward(self, images: Tensor) -> Tensor:
        rows: Tensor = self.network(images.permute(0, 3, 1, 2))
        return rows.softmax(dim=1) if self.softmax else rows


def network(channels: int) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 5)),
    )


def labels_of(rows: npt.NDArray[np.float32]) -> list[str]:
    found = [LABELS[index] for index in rows.argmax(axis=1)]
    assert len(set(found)) >= 3
    return found


def session_rows(path: Path, inputs: Tensor) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    result: npt.NDArray[np.float32] = rows
    return result


def stack(transform: v2.Compose, images: list[Image.Image]) -> Tensor:
    return torch.stack([transform(image) for image in images])


@COUNTS
@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("softmax", [False, True])
async def test_top1_of_onnx_file_equals_onnx_runtimes(
    tmp_path: Path, nhwc: bool, softmax: bool, count: int
) -> None:
    transform = pipeline(32, bicubic=True)
    inside = spread(network(3), transform)
    example = torch.zeros(2, 3, 32, 32)
    if nhwc:
        inside, example = Channelled(inside, softmax=softmax), example.permute(0, 2, 3, 1)
    elif softmax:
        inside = nn.Sequential(inside, nn.Softmax(dim=1))
    program = export_program(inside.eval(), example.contiguous())
    (tmp_path / "m.onnx").write_bytes(to_onnx(program, image="x", outputs=("y",)))
    printed = packed(
        *(tmp_path / "m.onnx", "--labels", ",".join(LABELS), "--out", tmp_path / "m"),
        *("--mean", "imagenet", "--interpolation", "bicubic"),
        *("--policy", "stingy:n=2,scores=prob,decimals=6"),
    )
    assert f"rows         {'probabilities' if softmax else 'logits'}" in printed
    images = pictures(count)
    inputs = stack(transform, images)
    inputs = inputs.permute(0, 2, 3, 1).contiguous() if nhwc else inputs
    rows = session_rows(tmp_path / "m.onnx", inputs)
    answers = await served_answers(tmp_path / "m", tmp_path / "state", images)
    assert [label for label, _ in answers] == labels_of(rows)
    two = np.sort(rows if softmax else np.exp(rows.astype(np.float64)), axis=1)[:, -2:]
    shares = two[:, 1] / two.sum(axis=1)
    assert [score for _, score in answers] == pytest.approx(shares.tolist(), abs=1e-5)


OWN = """
from torch import nn

def build() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 5)),
    )
"""


@COUNTS
@pytest.mark.parametrize("by_file", [False, True])
async def test_top1_of_own_grey_network_equals_torchs(
    tmp_path: Path, by_file: bool, count: int
) -> None:
    transform = pipeline(29, grey=True)  # the second convolution needs an odd side
    inside = spread(network(1), transform)
    torch.save({"model_state_dict": inside.state_dict()}, tmp_path / "m.pth")
    (tmp_path / "own.py").write_text(OWN)
    own = f"{tmp_path}/own.py:build"
    source: list[str | Path] = (
        [tmp_path / "m.pth", "--arch", own] if by_file else [own, "--weights", tmp_path / "m.pth"]
    )
    packed(
        *(*source, "--labels", ",".join(LABELS), "--out", tmp_path / "m", "--name", "m"),
        *("--channels", "1", "--size", "29", "--mean", "half"),
    )
    images = [image.convert("L") for image in pictures(count)] + pictures(count, seed=1)
    with torch.inference_mode():
        expected = labels_of(inside(stack(transform, images)).numpy())
    assert await served_labels(tmp_path / "m", tmp_path / "state", images) == expected
