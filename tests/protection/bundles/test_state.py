"""A written bundle's weights fit its factory, under the factory's own names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odd_networks
from stingy_protection import BundleError, Preprocessing, verified_weights, write_bundle
from stingy_protection.bundles.state import build_network, fit_state

PREPROCESSING = Preprocessing(size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
FACTORY = "odd_networks:Base"


def write(folder: Path, model: nn.Module, *, factory: str = FACTORY) -> dict[str, Tensor]:
    manifest = write_bundle(
        folder,
        model=model,
        name="odd",
        version="1",
        factory=factory,
        arguments={"num_classes": 3},
        classes=("cat", "dog", "owl"),
        preprocessing=PREPROCESSING,
        policy="stingy:n=1",
    )
    return verified_weights(folder, manifest)


class Wrapped(nn.Module):
    """A network in which a part was compiled."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, module in network.named_children():
            self.add_module(name, Inner(module) if name == "conv" else module)


class Inner(nn.Module):
    """A wrapper that keeps its module under the name of torch.compile."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.add_module("_orig_mod", module)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda network: network,
    "DataParallel": nn.DataParallel,
    "torch.compile": torch.compile,
    "both": lambda network: nn.DataParallel(torch.compile(network)),
    "both, turned": lambda network: torch.compile(nn.DataParallel(network)),
    "a compiled part": Wrapped,
    "a compiled part in DataParallel": lambda network: nn.DataParallel(Wrapped(network)),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_B6_weights_are_written_under_the_factorys_names(tmp_path: Path, kind: str) -> None:
    network = odd_networks.Base(3)
    state = write(tmp_path, WRAPPERS[kind](network))
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


class Module(nn.Module):
    """A network that has a part named module, as a wrapper has."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 2)


def test_B6_own_part_named_module_keeps_its_name() -> None:
    network = Module()
    assert fit_state(network.state_dict(), network, factory="f").keys() == {
        "module.weight",
        "module.bias",
    }
    wrapped = nn.DataParallel(network).state_dict()
    assert fit_state(wrapped, network, factory="f").keys() == {"module.weight", "module.bias"}


def test_B6_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    odd = odd_networks.Base(4)
    odd.more = nn.Linear(1, 1)
    odd.conv = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(BundleError) as error:
        write(tmp_path / "b", odd)
    text = "; ".join(error.value.faults)
    assert "got none for conv.bias, conv.weight" in text
    assert "got also more.bias, more.weight" in text
    assert "expected the shape [3] of head.bias" in text
    assert "got [4]" in text
    assert not (tmp_path / "b").exists()


def test_B6_weights_of_another_number_of_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"expected the shape \[3\] of head.bias.* got \[4\]"):
        write(tmp_path / "b", odd_networks.Base(4))
    assert not (tmp_path / "b").exists()


def test_B6_many_faulty_tensors_are_counted(tmp_path: Path) -> None:
    odd = nn.ModuleList([nn.Linear(1, 1) for _ in range(50)])
    with pytest.raises(BundleError, match="and 95 more"):
        write(tmp_path, odd)


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("nowhere_at_all:build", "ModuleNotFoundError"),
        ("odd_networks:Missing", "AttributeError"),
        ("odd_networks:Output", "TypeError"),
        ("builtins:dict", "expected builtins:dict to make a torch.nn.Module, got dict"),
    ],
)
def test_B6_factory_that_builds_no_network_is_refused(
    tmp_path: Path, factory: str, sentence: str
) -> None:
    with pytest.raises(BundleError, match=sentence):
        write(tmp_path / "b", odd_networks.Base(3), factory=factory)
    assert not (tmp_path / "b").exists()


def test_B6_building_leaves_the_random_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    build_network(FACTORY, {"num_classes": 3})
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("label", ["\ud800", "cat\udfff", "", " ", "a" * 2000])
def test_B6_label_that_cannot_be_sent_is_not_written(tmp_path: Path, label: str) -> None:
    with pytest.raises(BundleError, match="classes"):
        write_bundle(
            tmp_path / "b",
            model=None,
            name="odd",
            version="1",
            classes=("dog", label),
            preprocessing=PREPROCESSING,
            policy="label",
        )
    assert not (tmp_path / "b").exists()
