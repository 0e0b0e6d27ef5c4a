"""The manifest of format 2, and of format 1 as release 0.1.0 wrote it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from stingy_protection import BundleError, BundleManifest, Preprocessing
from stingy_protection.bundles.manifest import format_manifest, parse_manifest
from stingy_protection.bundles.preprocessing import Interpolation
from stingy_protection.bundles.rules import MAX_ARGUMENTS, MAX_DEPTH, MAX_TEXT

FORMAT_1: dict[str, Any] = {
    "name": "digits",
    "version": "1",
    "factory": "torchvision.models:resnet18",
    "arguments": {"num_classes": 2},
    "classes": ["zero", "one"],
    "preprocessing": {"size": [8, 6], "mean": [0.5] * 3, "std": [0.2] * 3, "resize_shorter": 10},
    "policy": "label",
    "sha256": "0" * 64,
}
FORMAT_2: dict[str, Any] = {
    **FORMAT_1,
    "format": 2,
    "weights": "safetensors",
    "outputs": "probabilities",
    "source": "torchvision 0.26, ResNet18_Weights.IMAGENET1K_V1",
    "preprocessing": {
        "size": [8, 6],
        "mean": [0.5],
        "std": [0.2],
        "resize_to": [9, 6],
        "crop": True,
        "interpolation": "bicubic",
        "channels": 1,
        "exif_rotation": True,
    },
}


def parsed(fields: dict[str, Any]) -> BundleManifest:
    return parse_manifest(json.dumps(fields))


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in FORMAT_2.items() if name not in names}


def image(**changes: Any) -> dict[str, Any]:
    return {**FORMAT_2, "preprocessing": {**FORMAT_2["preprocessing"], **changes}}


def test_B8_format_1_keeps_its_meaning() -> None:
    manifest = parsed(FORMAT_1)
    assert (manifest.weights, manifest.outputs, manifest.source) == ("safetensors", "logits", "")
    assert manifest.preprocessing == Preprocessing(
        size=(8, 6),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        resize_shorter=10,
        crop=True,
        interpolation="bilinear",
        channels=3,
        exif_rotation=False,
    )
    assert parsed({**FORMAT_1, "format": 1}) == manifest
    plain = {**FORMAT_1["preprocessing"], "resize_shorter": None}
    assert not parsed({**FORMAT_1, "preprocessing": plain}).preprocessing.crop


@pytest.mark.parametrize("fields", [FORMAT_1, FORMAT_2], ids=["1", "2"])
def test_B8_written_manifest_reads_as_the_same(fields: dict[str, Any]) -> None:
    manifest = parsed(fields)
    written = format_manifest(manifest)
    assert written["format"] == 2
    assert parsed(json.loads(json.dumps(written))) == manifest


@pytest.mark.parametrize(
    "fields",
    [
        {**without("factory", "arguments"), "weights": "onnx"},
        {**without("factory", "arguments"), "weights": None},
        {**without("factory", "arguments", "sha256"), "weights": None},
    ],
    ids=["onnx", "upstream with a hash", "upstream"],
)
def test_B8_manifest_without_a_factory_reads_as_written(fields: dict[str, Any]) -> None:
    manifest = parsed(fields)
    assert manifest.factory == ""
    assert parsed(json.loads(json.dumps(format_manifest(manifest)))) == manifest


@pytest.mark.parametrize(
    "interpolation",
    ["nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"],
)
def test_B8_every_interpolation_of_torchvision_is_read(interpolation: Interpolation) -> None:
    found = parsed(image(interpolation=interpolation)).preprocessing
    assert found.interpolation == interpolation


NESTED = {"config": {"depths": [1, {"a": None}], "labels": {"0": "zero"}}, "num_classes": 2}


def test_B8_arguments_may_be_nested() -> None:
    assert parsed({**FORMAT_2, "arguments": NESTED}).arguments == NESTED


def nest(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def test_B8_arguments_of_the_largest_depth_are_read() -> None:
    assert parsed({**FORMAT_2, "arguments": {"a": nest(MAX_DEPTH)}}).arguments


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "format 3": ({**FORMAT_2, "format": 3}, "expected format 2"),
    "format true": ({**FORMAT_2, "format": True}, "expected format 2"),
    "format text": ({**FORMAT_2, "format": "2"}, "expected format 2"),
    "format list": ({**FORMAT_2, "format": [2]}, "expected format 2"),
    "new field in format 1": ({**FORMAT_1, "outputs": "logits"}, "unknown field outputs"),
    "new image field in format 1": (
        {**FORMAT_1, "preprocessing": {**FORMAT_1["preprocessing"], "crop": True}},
        "unknown field preprocessing.crop",
    ),
    "no weights": (without("weights"), "missing field weights"),
    "weights": ({**FORMAT_2, "weights": "pickle"}, "weights to be one of"),
    "weights list": ({**FORMAT_2, "weights": ["onnx"]}, "weights to be one of"),
    "no factory": (without("factory"), "missing field factory"),
    "factory beside onnx": ({**FORMAT_2, "weights": "onnx"}, "unknown field factory"),
    "onnx without a hash": (
        {**without("factory", "arguments", "sha256"), "weights": "onnx"},
        "missing field sha256",
    ),
    "outputs": ({**FORMAT_2, "outputs": "odds"}, "outputs to be one of"),
    "long source": ({**FORMAT_2, "source": "a" * (MAX_TEXT + 1)}, "source"),
    "half a character": ({**FORMAT_2, "source": "\ud800"}, "source"),
    "source number": ({**FORMAT_2, "source": 1}, "source"),
    "channels 2": (image(channels=2), "channels"),
    "channels 1.0": (image(channels=1.0), "channels"),
    "channels true": (image(channels=True), "channels"),
    "mean of another length": (image(channels=3), "mean to have 3 numbers, got 1"),
    "three means of one channel": (image(mean=[0.5] * 3), "mean to have 1 numbers, got 3"),
    "many means": (image(mean=[0.5] * 9), "mean"),
    "std of zero": (image(std=[0]), "std"),
    "interpolation": (image(interpolation="cubic"), "interpolation"),
    "interpolation number": (image(interpolation=3), "interpolation"),
    "crop text": (image(crop="center"), "crop"),
    "crop false": (image(crop=False), "crop to be true"),
    "rotation number": (image(exif_rotation=1), "exif_rotation"),
    "two resizes": (image(resize_shorter=9), "or resize_to, got both"),
    "small resize": (image(resize_to=[7, 6]), "resize_to >= size"),
    "huge resize": (image(resize_to=[9, 10**400]), "resize_to"),
    "resize of one side": (image(resize_to=[9]), "resize_to"),
    "deep arguments": ({**FORMAT_2, "arguments": {"a": nest(MAX_DEPTH + 1)}}, "arguments"),
    "very deep arguments": ({**FORMAT_2, "arguments": {"a": nest(900)}}, "."),
    "many arguments": (
        {**FORMAT_2, "arguments": {str(number): number for number in range(MAX_ARGUMENTS)}},
        "arguments",
    ),
    "many nested": ({**FORMAT_2, "arguments": {"a": [{"b": 1}] * MAX_ARGUMENTS}}, "arguments"),
    "long name of an argument": ({**FORMAT_2, "arguments": {"a" * 2000: 1}}, "arguments"),
    "odd name within": ({**FORMAT_2, "arguments": {"a": {"\udfff": 1}}}, "arguments"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_P6_manifest_of_format_2_beyond_the_bounds_is_a_fault(kind: str) -> None:
    fields, sentence = FAULTS[kind]
    parsed(FORMAT_2)
    with pytest.raises(BundleError, match=sentence) as error:
        parsed(fields)
    assert all(len(fault) < 1000 and "\n" not in fault for fault in error.value.faults)


def drop(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda fields: {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize("name", ["outputs", "source"])
def test_B8_field_with_a_default_may_be_missing(name: str) -> None:
    assert parsed(drop(name)(FORMAT_2))


def test_B8_preprocessing_resizes_both_sides_by_default() -> None:
    fields = {**FORMAT_2, "preprocessing": {"size": [8, 6], "mean": [0] * 3, "std": [1] * 3}}
    assert parsed(fields).preprocessing == Preprocessing((8, 6), (0,) * 3, (1,) * 3)
