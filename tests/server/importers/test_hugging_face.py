"""Hugging Face folders. The tests of transformers' own networks need transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from packing import COUNTS, pack, packed, pictures, served_answers
from stingy_server.codec.transforms import transform
from stingy_server.importers.found import NotImportable
from stingy_server.importers.hugging_face import read_config
from stingy_server.importers.hugging_face_processor import read_processor
from stingy_server.inference.forward import Forward
from stingy_server.models.hugging_face import build_classifier

# As save_pretrained writes them.
CONFIG: dict[str, Any] = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "id2label": {"1": "dog", "0": "cat"},
    "label2id": {"cat": 0, "dog": 1},
    "hidden_size": 192,
}
VIT: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
CROPPED = {
    "image_processor_type": "CLIPImageProcessorFast",
    "size": {"shortest_edge": 256},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.875}


@pytest.mark.parametrize(
    ("changes", "size", "shorter", "both", "interpolation"),
    [
        ({}, 224, None, None, "bilinear"),
        (
            {"size": 384, "feature_extractor_type": "ViTFeatureExtractor"},
            384,
            None,
            None,
            "bilinear",
        ),
        (CROPPED, 224, 256, None, "bicubic"),
        (CROPPED | {"size": {"height": 256, "width": 256}}, 224, None, (256, 256), "bicubic"),
        (CONVNEXT | {"size": {"shortest_edge": 224}}, 224, 256, None, "bilinear"),
        (CONVNEXT | {"size": {"shortest_edge": 384}, "resample": 3}, 384, None, None, "bicubic"),
    ],
)
def test_image_processor_becomes_a_preprocessing(
    changes: dict[str, Any],
    size: int,
    shorter: int | None,
    both: tuple[int, int] | None,
    interpolation: str,
) -> None:
    found = read_processor(VIT | changes)
    assert (found.size, found.resize_shorter, found.resize_to) == ((size, size), shorter, both)
    assert (found.interpolation, found.mean, found.std) == (interpolation, (0.5,) * 3, (0.5,) * 3)
    assert found.crop_rounding == "down"


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({"do_normalize": False}, 0.0, 1.0),
        ({"do_rescale": False, "image_mean": 127.5, "image_std": 127.5}, 0.5, 0.5),
        ({"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0}, 0.5, 0.5),
    ],
)
def test_scale_of_a_processor_is_that_of_pixels_over_255(
    changes: dict[str, Any], mean: float, std: float
) -> None:
    found = read_processor(VIT | changes)
    assert found.mean == pytest.approx((mean,) * 3)
    assert found.std == pytest.approx((std,) * 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_processor_type": "MobileViTImageProcessor"},
        {"image_processor_type": "LevitImageProcessor"},
        {"image_processor_type": None},
        {"do_resize": False},
        {"size": {"shortest_edge": 224}},
        {"size": {"longest_edge": 224}},
        {"resample": 9},
        {"resample": None},
        {"image_mean": None},
        {"rescale_factor": 0},
    ],
)
def test_processor_without_a_bundles_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(NotImportable, match=r"^preprocessor_config\.json: expected .* export"):
        read_processor(VIT | changes)


def test_labels_are_read_in_the_order_of_their_indices() -> None:
    assert read_config(CONFIG) == ("cat", "dog")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auto_map": {"AutoModel": "code.Net"}}, "code of its own"),
        ({"architectures": ["ViTModel"]}, "expected an image classifier, got the architecture"),
        ({"model_type": None}, "expected an image classifier"),
        ({"id2label": {"0": "cat", "2": "dog"}}, "expected the indices 0 to 1"),
        ({"id2label": {"0": "cat", "1": "cat"}}, "expected different labels"),
        ({"id2label": None}, "expected id2label"),
        ({"use_timm_backbone": True}, "got the field use_timm_backbone"),
    ],
)
def test_config_of_no_plain_classifier_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(NotImportable) as refused:
        read_config(CONFIG | changes)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "changes", [{"id2label": None}, {"id2label": {"0": "cat", "1": "cat"}}, {"id2label": ["a"]}]
)
def test_given_labels_stand_for_those_that_a_config_lacks(changes: dict[str, Any]) -> None:
    assert read_config(CONFIG | changes, given=("ox", "hen")) == ("ox", "hen")
    assert read_config(CONFIG, given=("ox", "hen")) == ("cat", "dog")


def test_folder_of_timm_is_named_with_its_command() -> None:
    config = {"architecture": "resnet10t", "num_classes": 3, "pretrained_cfg": {}}
    with pytest.raises(NotImportable, match=r"got one of timm; pack timm:resnet10t --weights"):
        read_config(config)


@pytest.mark.parametrize("field", ["auto_map", "attn_implementation", "_name_or_path"])
def test_B9_config_that_imports_or_fetches_builds_nothing(field: str) -> None:
    with pytest.raises(ValueError, match="expected a config of fields alone"):
        build_classifier({"model_type": "vit", field: "owner/code"})


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "hf_vit"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(VIT))
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_folder_with_a_missing_or_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path)
    (folder / name).write_bytes(b"[" if name.endswith("json") else b"")
    if name != "model.safetensors":
        assert f"{name}: expected JSON" in pack(folder, "--out", tmp_path / "out").stderr
    (folder / name).unlink()
    result = pack(folder, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "expected " in result.stderr
    assert not (tmp_path / "out").exists()


def test_missing_transformers_is_named_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = pack(folder_of(tmp_path), "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "pip install 'stingy[hugging-face]'" in result.stderr


@pytest.mark.parametrize(
    "kind", ["Bit", "CLIP", "ConvNext", "DeiT", "MobileNetV2", "Siglip", "ViT"]
)
@pytest.mark.parametrize("resample", [2, 3])
def test_B3_inputs_equal_those_of_transformers(kind: str, resample: int) -> None:
    transformers = pytest.importorskip("transformers")
    name = f"{kind}ImageProcessor"
    sizes = {"size": {"shortest_edge": 224}} if kind == "ConvNext" else {}
    processor = getattr(transformers, f"{name}Pil")(resample=resample, **sizes)
    found = read_processor(processor.to_dict() | {"image_processor_type": name})
    forward = Forward(torch.nn.Identity(), preprocessing=found, device=torch.device("cpu"))
    for width, height in ((225, 300), (301, 227), (97, 60), (640, 481), (31, 33), (256, 255)):
        image = pictures(1, seed=width)[0].resize((width, height))
        expected = processor(image, return_tensors="pt")["pixel_values"]
        inputs = forward.inputs(torch.from_numpy(transform(image, found).copy())[None])
        assert torch.allclose(inputs, expected, rtol=0, atol=1e-5), (width, height)


@COUNTS
@pytest.mark.parametrize("cropped", [False, True])
@pytest.mark.anyio
async def test_hugging_face_folder_answers_as_transformers(
    tmp_path: Path, cropped: bool, count: int
) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    labels = {0: "cat", 1: "dog", 2: "bird", 3: "fish", 4: "horse"}
    config = transformers.ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
    )
    network = transformers.ViTForImageClassification(config).eval()
    if cropped:
        processor = transformers.BitImageProcessorPil(
            size={"shortest_edge": 37}, crop_size={"height": 32, "width": 32}
        )
    else:
        processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})

    def rows(count: int, seed: int) -> torch.Tensor:
        with torch.inference_mode():
            inputs = processor(pictures(count, seed=seed), return_tensors="pt")
            found: torch.Tensor = network(**inputs).logits
        return found

    with torch.no_grad():
        bias = network.classifier.bias
        bias.copy_(bias - rows(12, 7).mean(dim=0))
    network.save_pretrained(tmp_path / "vit")
    processor.save_pretrained(tmp_path / "vit")
    packed(
        tmp_path / "vit",
        "--name",
        "m",
        "--out",
        tmp_path / "m",
        "--policy",
        "stingy:n=2,scores=logit,decimals=4",
    )
    best = rows(count, 0).max(dim=1)
    expected = [labels[int(index)] for index in best.indices]
    assert len(set(expected)) >= 3
    answers = await served_answers(tmp_path / "m", tmp_path / "state", pictures(count))
    assert [label for label, _ in answers] == expected
    assert [score for _, score in answers] == pytest.approx(best.values.tolist(), abs=1e-3)


@pytest.mark.parametrize("named", ["../w.safetensors", "/w.safetensors", 3, None])
def test_index_that_leads_out_of_its_folder_is_refused(tmp_path: Path, named: object) -> None:
    folder = folder_of(tmp_path)
    (folder / "model.safetensors").rename(tmp_path / "w.safetensors")
    index = {"weight_map": None if named is None else {"a": named}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    result = pack(folder, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "expected the names of files beside it, got others" in result.stderr


def test_folder_without_a_processor_needs_size_and_mean(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "preprocessor_config.json").unlink()
    expected = "save the image processor there, or give --size and --mean"
    assert expected in pack(folder, "--size", "224", "--out", tmp_path / "out").stderr
    assert expected in pack(folder, "--mean", "half", "--out", tmp_path / "out").stderr


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=4,
        problem_type="multi_label_classification",
    )
    network = transformers.ViTForImageClassification(config)
    network.save_pretrained(tmp_path / "vit", max_shard_size="10KB")
    assert not (tmp_path / "vit" / "model.safetensors").exists()
    printed = packed(
        *(tmp_path / "vit", "--size", "32", "--mean", "half", "--labels", "a,b,c,d"),
        *("--out", tmp_path / "out"),
    )
    assert "took the weights of 5 files" in printed
    assert "trained for several labels an image" in printed
    assert "32 x 32 RGB, bilinear; mean and std of half" in printed
