"""A manifest can make the server call only what builds a network and is defined where trusted."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from serving import make_bundle, make_settings
from stingy_server.models.factories import FactoryRejected, check_factory, find_factory
from stingy_server.models.loading import load_bundles

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
