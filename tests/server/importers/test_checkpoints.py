"""Checkpoints of training code: the network's tensors are found in them, or the fault is named."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stingy_server.importers.found import NotImportable
from stingy_server.importers.state_file import (
    WeightsFound,
    fit_prefix,
    load_weights,
    read_weights,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))


STATE: dict[str, Tensor] = dict(network().state_dict())
OPTIMIZER = {"state": {0: {"step": torch.ones(1), "mean": torch.ones(2, 2)}}, "param_groups": []}
NUMBERED = {"state": {"0": {"mean": torch.ones(2, 2)}}}  # as some optimisers are saved


def under(prefix: str, **others: Tensor) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in STATE.items()} | others


def read(tmp_path: Path, content: Any) -> WeightsFound:
    torch.save(content, tmp_path / "w.pth")
    return fit_prefix(read_weights(tmp_path / "w.pth"), network().state_dict())


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ({"state_dict_ema": STATE, "epoch": 3}, "took state_dict_ema of the file"),
        ({"ema": {"state_dict": STATE}}, "took ema of the file, took state_dict of the file"),
        ({"params": STATE, "optimizer": NUMBERED}, "took params of the file"),
        ({"checkpoint": {"model": STATE}, "optim": OPTIMIZER}, "took checkpoint of the file"),
        ({"model": STATE, "ema": STATE}, "took model of the file, not ema"),
        (under("module.", n_averaged=torch.tensor(3)), "left out n_averaged"),
        (
            {"state_dict": under("model.", **{"loss.weight": torch.ones(5)})},
            "removed model. from the keys of the file, left out loss.weight",
        ),
        (under("net.model."), "removed net.model. from the keys"),
        (OrderedDict(under("module.model.")), "removed module. from the keys, removed model."),
    ],
)
def test_network_is_found_in_a_checkpoint(tmp_path: Path, content: Any, note: str) -> None:
    found = read(tmp_path, content)
    assert note in ", ".join(found.notes)
    assert found.state.keys() == STATE.keys()
    assert all(torch.equal(found.state[key], STATE[key]) for key in STATE)


def test_network_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotImportable, match=r"got one under each of a\., b\.; save"):
        read(tmp_path, under("a.") | under("b."))
    with pytest.raises(NotImportable, match="expected one state_dict, got first, second; save"):
        read(tmp_path, {"first": STATE, "second": STATE})


def test_layers_beside_the_network_are_refused(tmp_path: Path) -> None:
    found = read(tmp_path, under("model.", **{"head.weight": torch.ones(2, 5)}))
    with pytest.raises(NotImportable, match=r"expected only tensors of own:net, got also head\."):
        load_weights(network(), found, arch="own:net")


def test_content_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    for content, words in (
        ([STATE], "got a list"),
        ({"epoch": 3, "optimizer": OPTIMIZER}, "got a dict of epoch, optimizer"),
        ({}, "got a dict of nothing"),
    ):
        with pytest.raises(NotImportable, match=words):
            read(tmp_path, content)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool])
def test_B6_weights_of_another_kind_of_number_are_named(tmp_path: Path, dtype: torch.dtype) -> None:
    found = read(tmp_path, STATE | {"0.weight": STATE["0.weight"].to(dtype)})
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(NotImportable, match=rf"numbers in 0\.weight, as own:net .* got {name}"):
        load_weights(network(), found, arch="own:net")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    target = network()
    found = read(tmp_path, {key: value.to(dtype) for key, value in STATE.items()})
    load_weights(target, found, arch="own:net")
    assert torch.allclose(target.state_dict()["0.weight"], STATE["0.weight"], atol=1e-2)
