"""Bundles: a written bundle can be read, and every kind of damage is refused."""

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stingy_protection import (
    BundleError,
    BundleManifest,
    Preprocessing,
    read_manifest,
    verified_weights,
    write_bundle,
)

PREPROCESSING = Preprocessing(
    size=(8, 6), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), resize_shorter=10
)


class Tied(nn.Module):
    """A module with two names for one tensor, and with a tensor that is not contiguous."""

    def __init__(self, **arguments: object) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.arange(6.0).view(2, 3))
        self.second = self.first
        self.register_buffer("turned", torch.arange(6).view(2, 3).t())


def write(folder: Path, **changes: Any) -> BundleManifest:
    fields: dict[str, Any] = {
        "model": Tied(),
        "name": "tied",
        "version": "1.0",
        "factory": f"{__name__}:Tied",
        "arguments": {"width": 2, "widths": [1, 2], "note": None},
        "classes": ("cat", "dog", "owl"),
        "preprocessing": PREPROCESSING,
        "policy": "stingy:n=2",
    }
    return write_bundle(folder, **{**fields, **changes})


def test_a_written_bundle_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "bundle"
    manifest = write(folder)
    assert read_manifest(folder) == manifest
    assert manifest.preprocessing == PREPROCESSING
    assert manifest.classes == ("cat", "dog", "owl")
    weights = verified_weights(folder, manifest)
    assert {key: value.tolist() for key, value in weights.items()} == {
        key: value.tolist() for key, value in Tied().state_dict().items()
    }
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "weights.safetensors"]


def test_equal_models_are_written_to_equal_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a") == write(tmp_path / "b")


def test_writing_again_replaces_a_bundle(tmp_path: Path) -> None:
    write(tmp_path)
    newer = write(tmp_path, version="2.0")
    assert read_manifest(tmp_path) == newer


def test_an_interrupted_replacement_is_refused(tmp_path: Path) -> None:
    old = write(tmp_path)
    changed = Tied()
    changed.first.data += 1
    newer = write(tmp_path / "newer", model=changed)
    assert newer.sha256 != old.sha256
    (tmp_path / "newer" / "weights.safetensors").replace(tmp_path / "weights.safetensors")
    with pytest.raises(BundleError, match="sha256"):
        verified_weights(tmp_path, read_manifest(tmp_path))


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "Cats"}, "name"),
    "name with a slash": ({"name": "a/b"}, "name"),
    "version": ({"version": ""}, "version"),
    "factory": ({"factory": "os.system"}, "factory"),
    "arguments": ({"arguments": {"a": [{"b": "\ud800"}]}}, "arguments"),
    "arguments NaN": ({"arguments": {"a": float("nan")}}, "JSON"),
    "arguments no JSON": ({"arguments": {"a": object()}}, "JSON"),
    "one class": ({"classes": ("cat",)}, "classes"),
    "duplicate classes": ({"classes": ("cat", "dog", "cat")}, "classes"),
    "empty class": ({"classes": ("cat", " ")}, "classes"),
    "policy text": ({"policy": "stingy:n"}, "policy"),
    "unknown policy": ({"policy": "stingey"}, "policy"),
    "policy too wide": ({"policy": "stingy:n=4"}, "policy"),
    "size": ({"preprocessing": replace(PREPROCESSING, size=(0, 6))}, "size"),
    "mean": ({"preprocessing": replace(PREPROCESSING, mean=(0.0, 0.0, float("inf")))}, "JSON"),
    "std": ({"preprocessing": replace(PREPROCESSING, std=(0.0, 1.0, 1.0))}, "std"),
    "resize": ({"preprocessing": replace(PREPROCESSING, resize_shorter=7)}, "resize_shorter"),
}


@pytest.mark.parametrize(("changes", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_a_bundle_with_a_faulty_field_is_not_written(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(BundleError, match=fault):
        write(tmp_path / "bundle", **changes)
    assert not (tmp_path / "bundle").exists()


def test_model_state_other_than_tensors_is_not_written(tmp_path: Path) -> None:
    class Extra(nn.Module):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

    with pytest.raises(BundleError, match="tensors"):
        write(tmp_path, model=Extra())


def damage(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw.update(changes)


def damage_image(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["preprocessing"].update(changes)


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (lambda raw: raw.pop("sha256"), "missing field sha256"),
    "unknown": (damage(url="http://x"), "unknown field url"),
    "missing inside": (lambda raw: raw["preprocessing"].pop("std"), "preprocessing.std"),
    "unknown inside": (damage_image(padding=1), "unknown field preprocessing.padding"),
    "name type": (damage(name=3), "name"),
    "name newline": (damage(name="tied\n"), "name"),
    "version type": (damage(version=1.0), "version"),
    "factory call": (damage(factory="os:system()"), "factory"),
    "arguments type": (damage(arguments=[]), "arguments"),
    "arguments infinite": (damage(arguments={"a": 1e999}), "JSON"),
    "classes type": (damage(classes="abc"), "classes"),
    "classes unhashable": (damage(classes=[["a"], ["b"]]), "classes"),
    "preprocessing type": (damage(preprocessing=None), "preprocessing"),
    "size bool": (damage_image(size=[True, 6]), "size"),
    "size float": (damage_image(size=[8.0, 6]), "size"),
    "mean text": (damage_image(mean=["0", 0, 0]), "mean"),
    "std negative": (damage_image(std=[1, 1, -1]), "std"),
    "resize text": (damage_image(resize_shorter="10"), "resize_shorter"),
    "policy type": (damage(policy=None), "policy"),
    "policy num_classes": (damage(policy="open:num_classes=9"), "policy"),
    "sha256 short": (damage(sha256="ab"), "sha256"),
    "sha256 upper": (damage(sha256="A" * 64), "sha256"),
}


@pytest.mark.parametrize(("change", "fault"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_manifest_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], fault: str
) -> None:
    write(tmp_path)
    raw = json.loads((tmp_path / "model.json").read_text())
    change(raw)
    (tmp_path / "model.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=fault):
        read_manifest(tmp_path)


def test_a_manifest_can_be_read_without_the_weights_file(tmp_path: Path) -> None:
    written = write(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    assert read_manifest(tmp_path, with_weights=False) == written
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        read_manifest(tmp_path)


def test_every_fault_of_a_manifest_is_listed(tmp_path: Path) -> None:
    write(tmp_path)
    raw = json.loads((tmp_path / "model.json").read_text())
    raw |= {"name": "A", "classes": ["a", "b"], "policy": "stingy:n=3", "more": 1}
    del raw["version"]
    raw["preprocessing"]["size"] = [1]
    (tmp_path / "model.json").write_text(json.dumps(raw))
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(BundleError) as caught:
        read_manifest(tmp_path)
    assert len(caught.value.faults) == 5
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"[" * 100_000, b'{"a": NaN}', b'{"a": -Infinity}', b"\xff\xfe{}"],
    ids=lambda content: repr(content[:9]),
)
def test_a_manifest_other_than_a_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    write(tmp_path)
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(BundleError):
        read_manifest(tmp_path)


def test_a_manifest_with_nan_is_refused_as_json(tmp_path: Path) -> None:
    write(tmp_path)
    text = (tmp_path / "model.json").read_text().replace('"width": 2', '"width": NaN')
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(BundleError, match="to be JSON, got another text"):
        read_manifest(tmp_path)


def test_an_empty_folder_lacks_its_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_a_link_instead_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "bundle"
    manifest = write(bundle)
    (bundle / name).rename(tmp_path / name)
    (bundle / name).symlink_to(tmp_path / name)
    with pytest.raises(BundleError, match="plain file"):
        read_manifest(bundle)
    if name == "weights.safetensors":
        with pytest.raises(BundleError, match="plain file"):
            verified_weights(bundle, manifest)


def test_changed_weights_are_refused_before_parsing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write(tmp_path)
    weights = bytearray((tmp_path / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(weights)
    monkeypatch.setattr("stingy_protection.bundles.bundle.load_safetensors", pytest.fail)
    with pytest.raises(BundleError, match="sha256"):
        verified_weights(tmp_path, manifest)


@pytest.mark.parametrize("content", [b"", b"x" * 64, pickle.dumps({"a": 1})])
def test_weights_in_another_format_are_refused_by_any_hash(tmp_path: Path, content: bytes) -> None:
    manifest = replace(write(tmp_path), sha256=hashlib.sha256(content).hexdigest())
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match="safetensors"):
        verified_weights(tmp_path, manifest)
