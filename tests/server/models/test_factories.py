"""A manifest can make the server call only what builds a network and is defined where trusted."""

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from serving import make_bundle, make_settings
from stingy_server.models.factories import FactoryRejected, check_factory, find_factory
from stingy_server.models.loading import load_bundles
from stingy_server.settings import OWN_FACTORIES, Settings
from stingy_server.settings_sources import load_settings

TRUSTED = ("torchvision.models", "timm", "stingy_attacker_eval.students", "homegrown")


class Planted:
    """An object that creates a file when a pickle of it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def unannotated(num_classes):  # type: ignore[no-untyped-def]
    return nn.Linear(1, num_classes)


def broken_annotation(num_classes: int) -> "Nowhere":  # type: ignore[name-defined]  # noqa: F821
    return nn.Linear(1, num_classes)


def annotated(num_classes: int) -> nn.Module:
    return nn.Linear(1, num_classes)


@pytest.fixture
def homegrown(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Install a trusted module of a user, with callables of its own and of others."""
    module = ModuleType("homegrown")
    for function in (unannotated, broken_annotation, annotated):
        monkeypatch.setattr(function, "__module__", "homegrown")
    contents = {
        "unannotated": unannotated,
        "broken_annotation": broken_annotation,
        "annotated": annotated,
        "load": torch.load,
        "Linear": nn.Linear,
        "instance": nn.Linear(1, 1),
    }
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, "homegrown", module)
    return module


@pytest.mark.parametrize(
    "path",
    [
        "torchvision.models:resnet18",
        "torchvision.models.resnet:ResNet",
        "torchvision.models:get_model",
        "stingy_attacker_eval.students:cnn",
        "homegrown:annotated",
    ],
)
@pytest.mark.usefixtures("homegrown")
def test_M1_class_or_annotated_function_is_a_factory(path: str) -> None:
    assert check_factory(path, {}, trusted=TRUSTED) == []
    assert callable(find_factory(path, trusted=TRUSTED))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("stingy_attacker_eval.students:import_module", "defined in a trusted module"),
        ("homegrown:load", "defined in a trusted module"),
        ("homegrown:Linear", "defined in a trusted module"),
        ("homegrown:instance", "defined in a trusted module"),
        ("torchvision.models:list_models", "annotated to return"),
        ("homegrown:unannotated", "annotate its return type"),
        ("homegrown:broken_annotation", "annotate its return type"),
    ],
)
@pytest.mark.usefixtures("homegrown")
def test_M1_callable_not_made_for_networks_is_rejected(path: str, reason: str) -> None:
    with pytest.raises(FactoryRejected, match=reason):
        find_factory(path, trusted=TRUSTED)


@pytest.mark.parametrize(
    ("path", "arguments", "reason"),
    [
        ("os:system", {}, "trusted module"),
        ("torchvision.models._api:load_state_dict_from_url", {}, "public factory"),
        ("torchvision.models.resnet:_resnet", {}, "public factory"),
        ("torchvision.models_extra:resnet18", {}, "trusted module"),
        ("torchvision.models:resnet18", {"weights": "DEFAULT"}, "would fetch weights"),
        ("torchvision.models:resnet18", {"pretrained": True}, "would fetch weights"),
        ("torchvision.models:resnet18", {"weights": 1}, "would fetch weights"),
        ("homegrown:annotated", {"backbone": {"weights": "DEFAULT"}}, "would fetch weights"),
        ("homegrown:annotated", {"parts": [{"pretrained": 1}]}, "would fetch weights"),
        ("timm:create_model", {"model_name": "hf-hub:someone/net"}, "timm would fetch"),
    ],
)
def test_M1_path_is_rejected_before_its_module_is_imported(
    path: str, arguments: dict[str, Any], reason: str
) -> None:
    faults = check_factory(path, arguments, trusted=TRUSTED)
    assert any(reason in fault for fault in faults)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("torchvision.models._api:load_state_dict_from_url", {"weights_only": False}),
        ("homegrown:load", {"weights_only": False}),
    ],
)
@pytest.mark.usefixtures("homegrown")
def test_M1_bundle_cannot_make_the_server_load_a_pickle(
    tmp_path: Path, path: str, arguments: dict[str, Any]
) -> None:
    planted = tmp_path / "weights.pth"
    torch.save(Planted(tmp_path / "executed"), planted)
    where = {"f": str(planted)} if path == "homegrown:load" else {"url": planted.as_uri()}
    bundle = make_bundle(tmp_path / "b")
    manifest = json.loads((bundle / "model.json").read_text())
    manifest |= {"factory": path, "arguments": {**where, **arguments}}
    (bundle / "model.json").write_text(json.dumps(manifest))
    settings = make_settings(tmp_path / "s", bundle)
    settings = settings.model_copy(update={"trusted_factories": TRUSTED})
    models, faults = load_bundles(settings)
    assert models == []
    assert len(faults) == 1
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"weights": None},
        {"pretrained": False, "weights_backbone": None},
        {"config": {"pretrained": False}, "widths": [1, {"weights": None}]},
    ],
)
def test_M1_argument_that_fetches_nothing_is_accepted(arguments: dict[str, Any]) -> None:
    assert check_factory("torchvision.models:resnet18", arguments, trusted=TRUSTED) == []


def test_M1_trusted_factories_extend_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (*OWN_FACTORIES, "mine", "theirs")
    given = ("mine", "timm", "theirs")
    assert Settings(trusted_factories=given).trusted_factories == expected
    assert Settings(trusted_factories=expected).trusted_factories == expected
    monkeypatch.setenv("STINGY_TRUSTED_FACTORIES", json.dumps(given))
    assert load_settings()[0].trusted_factories == expected
    assert Settings().trusted_factories == OWN_FACTORIES


def test_B6_start_names_the_tensors_that_do_not_fit(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    fields = json.loads((bundle / "model.json").read_text())
    fields["factory"] = "sample_networks:convolutional"
    (bundle / "model.json").write_text(json.dumps(fields))
    _, faults = load_bundles(make_settings(tmp_path / "s", bundle))
    assert any("got none for 0.bias, 0.weight, 2.bias" in fault for fault in faults)


def test_B6_bundle_with_the_names_of_a_wrapper_is_served(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    state = load_file(bundle / "weights.safetensors")
    save_file({f"module._orig_mod.{name}": value for name, value in state.items()}, bundle / "w")
    (bundle / "w").replace(bundle / "weights.safetensors")
    fields = json.loads((bundle / "model.json").read_text())
    content = (bundle / "weights.safetensors").read_bytes()
    fields["sha256"] = hashlib.sha256(content).hexdigest()
    (bundle / "model.json").write_text(json.dumps(fields))
    _, faults = load_bundles(make_settings(tmp_path / "s", bundle))
    assert faults == []
