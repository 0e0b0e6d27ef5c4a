"""timm's registry. The tests of timm's own networks need timm."""

from pathlib import Path
from typing import Any

import pytest
import torch

from packing import packed, pictures, served_labels, spread
from stingy_server.importers.found import ImportOptions, NotImportable
from stingy_server.importers.timm_model import TimmModel, read_data_config

# As timm's resolve_model_data_config returns it for mobilenetv3_small_050.
CONFIG: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
}
LABELS = ("cat", "dog", "bird", "fish", "horse")


@pytest.mark.parametrize(
    ("changes", "shorter", "both"),
    [
        ({}, 256, None),
        ({"crop_pct": 0.9}, 248, None),  # floor(224 / 0.9), where rounding gives 249
        ({"crop_pct": 1.0}, 224, None),
        ({"crop_mode": "squash"}, None, (256, 256)),
        ({"crop_mode": "squash", "input_size": (3, 96, 128), "crop_pct": 1.0}, None, (96, 128)),
    ],
)
def test_data_config_of_timm_becomes_a_preprocessing(
    changes: dict[str, Any], shorter: int | None, both: tuple[int, int] | None
) -> None:
    found = read_data_config("timm:x", CONFIG | changes)
    assert (found.resize_shorter, found.resize_to) == (shorter, both)
    assert found.interpolation == "bicubic"
    assert found.crop


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_mode": "border"},
        {"input_size": (3, 96, 128)},
        {"input_size": (4, 224, 224)},
    ],
)
def test_data_config_without_a_bundles_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(NotImportable, match="timm:x: expected "):
        read_data_config("timm:x", CONFIG | changes)


@pytest.mark.anyio
async def test_top1_of_timm_weights_equals_timms(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv3_small_050", num_classes=5)
    config = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**config, is_training=False)
    spread(network, transform)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "w.pth")
    printed = packed(
        *("timm:mobilenetv3_small_050", "--weights", tmp_path / "w.pth"),
        *("--labels", ",".join(LABELS), "--out", tmp_path / "m", "--name", "m"),
    )
    assert "bicubic" in printed
    images = pictures(200)
    with torch.inference_mode():
        expected = [
            LABELS[int(network(transform(image.convert("RGB"))[None]).argmax())] for image in images
        ]
    assert len(set(expected)) >= 2
    assert await served_labels(tmp_path / "m", tmp_path / "state", images) == expected


def test_name_that_timm_would_fetch_is_refused() -> None:
    pytest.importorskip("timm")
    for name in ("hf-hub:owner/model", "local-dir:x", "no_such_model"):
        with pytest.raises(NotImportable, match="expected the name of a model in timm"):
            TimmModel(name)


def test_tag_that_timm_does_not_have_is_named_with_those_it_has() -> None:
    pytest.importorskip("timm")
    with pytest.raises(NotImportable, match="got nothing; it has lamb_in1k, and the name needs no"):
        TimmModel("mobilenetv3_small_050.nothing")
    assert TimmModel("mobilenetv3_small_050.lamb_in1k").short_name == "mobilenetv3_small_050"


def test_network_of_a_fixed_size_is_built_for_the_given_one() -> None:
    pytest.importorskip("timm")
    given = ImportOptions(size=(64, 64))
    assert TimmModel("vit_tiny_patch16_224").arguments(5, given)["img_size"] == [64, 64]
    assert "img_size" not in TimmModel("mobilenetv3_small_050").arguments(5, given)
