"""Weights of torchvision's architectures: top-1 equals that of torchvision's own pipeline."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models  # type: ignore[import-untyped]

from packing import COUNTS, pack, packed, pictures, served_labels, spread
from stingy_protection import read_manifest
from stingy_server.importers.found import ImportOptions, NotImportable
from stingy_server.importers.torchvision_model import TorchvisionModel

LABELS = ("cat", "dog", "bird", "fish", "horse")


def preset(name: str) -> Any:
    return models.get_model_weights(name).DEFAULT.transforms()


@torch.inference_mode()
def labels_of_torchvision(
    name: str, network: nn.Module, images: list[Image.Image], labels: tuple[str, ...]
) -> list[str]:
    return [
        labels[int(network(preset(name)(image.convert("RGB"))[None]).argmax())] for image in images
    ]


@pytest.mark.anyio
@COUNTS
@pytest.mark.parametrize(
    ("name", "file"), [("resnet18", "w.pth"), ("shufflenet_v2_x0_5", "w.safetensors")]
)
async def test_top1_of_packed_weights_equals_torchvisions(
    tmp_path: Path, name: str, file: str, count: int
) -> None:
    network = spread(models.get_model(name, weights=None, num_classes=5), preset(name))
    if file == "w.pth":
        torch.save({"model": network.state_dict(), "epoch": 1}, tmp_path / file)
    else:
        save_file(network.state_dict(), tmp_path / file)
    out = tmp_path / "w"
    printed = packed(
        *(tmp_path / file, "--out", out, "--arch", f"torchvision:{name}"),
        *("--labels", ",".join(LABELS), "--policy", "stingy:n=1"),
    )
    assert "5: cat, dog, bird, ..." in printed
    assert f"next         stingy serve {out}" in printed
    assert "mean and std of imagenet" in printed
    images = pictures(count)
    expected = labels_of_torchvision(name, network, images, LABELS)
    assert len(set(expected)) >= 3
    assert await served_labels(out, tmp_path / "state", images) == expected


def test_named_architecture_takes_a_file_of_weights(tmp_path: Path) -> None:
    network = models.get_model("shufflenet_v2_x0_5", weights=None)
    torch.save(network.state_dict(), tmp_path / "imagenet.pth")
    printed = packed(
        *("torchvision:shufflenet_v2_x0_5", "--weights", tmp_path / "imagenet.pth"),
        *("--out", tmp_path / "out", "--version", "1.2", "--name", "things"),
    )
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.name, manifest.version) == ("things", "1.2")
    assert manifest.classes == tuple(preset_labels("shufflenet_v2_x0_5"))
    assert "labels are those of ImageNet-1k" in printed
    assert manifest.factory == "torchvision.models.shufflenetv2:shufflenet_v2_x0_5"
    assert manifest.source.startswith("torchvision:shufflenet_v2_x0_5, torchvision 0.")


def preset_labels(name: str) -> list[str]:
    labels: list[str] = models.get_model_weights(name).DEFAULT.meta["categories"]
    return labels


@pytest.mark.parametrize(
    "name", ["resnet50", "efficientnet_b0", "swin_t", "vit_h_14", "regnet_y_400mf"]
)
def test_preprocessing_is_that_of_torchvisions_weights(name: str) -> None:
    found = TorchvisionModel(name).preprocessing(nn.Identity())
    source = preset(name)
    assert found.size == (source.crop_size[0], source.crop_size[0])
    assert found.resize_shorter == source.resize_size[0]
    assert found.interpolation == source.interpolation.value
    assert (list(found.mean), list(found.std)) == (source.mean, source.std)


def test_every_classifier_of_torchvision_has_a_preprocessing() -> None:
    names = models.list_models(module=models)
    assert len(names) >= 80
    for name in names:
        if name in ("googlenet", "inception_v3"):
            with pytest.raises(NotImportable, match="depends on transform_input"):
                TorchvisionModel(name)
        else:
            found = TorchvisionModel(name)
            size = found.preprocessing(nn.Identity()).size
            arguments = found.arguments(7, ImportOptions())
            assert arguments.get("image_size", size[0]) == size[0]


def test_vision_transformer_is_built_for_the_given_size() -> None:
    options = ImportOptions(size=(96, 96))
    assert TorchvisionModel("vit_b_16").arguments(5, options)["image_size"] == 96


def test_network_that_cannot_be_built_for_a_size_is_named(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(2, 2)}, tmp_path / "w.pth")
    result = pack(tmp_path / "w.pth", "--arch", "torchvision:vit_b_16", "--size", "97")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "torchvision:vit_b_16: expected a network that can be built with" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arch", "torchvision:resnet18"], "expected every tensor of torchvision:resnet18"),
        (["--arch", "torchvision:resnet_18"], "expected a classifier of torchvision"),
        (["--arch", "torchvision:_api"], "expected a classifier of torchvision"),
        (["--arch", "torchvision.models:resnet18"], "--arch: expected torchvision:NAME"),
        ([], "expected --arch, because a file of weights does not name its network"),
        (["--arch", "torchvision:alexnet", "--weights", "x.pth"], "--weights: expected none"),
    ],
)
def test_B9_wrong_architecture_is_refused_and_nothing_written(
    tmp_path: Path, options: list[str], words: str
) -> None:
    network = models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=2)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    result = pack(
        tmp_path / "w.pth", "--labels", "a,b", "--out", tmp_path / "new" / "out", *options
    )
    assert result.exit_code == 2
    assert words in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_missing_weights_are_named_with_the_way_to_them() -> None:
    result = pack("torchvision:resnet18")
    assert result.exit_code == 2
    assert "nothing is fetched" in result.stderr
    assert "torchvision.models.resnet18(weights='DEFAULT').state_dict(), 'resnet18.pth'" in (
        result.stderr
    )
