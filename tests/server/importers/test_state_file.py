"""Files of PyTorch weights: wrappers, prefixes, pickles with code and damaged files."""

import argparse
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stingy_server.importers.found import NotImportable
from stingy_server.importers.state_file import (
    fit_prefix,
    load_weights,
    number_of_classes,
    read_weights,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))


STATE = network().state_dict()


def saved(tmp_path: Path, content: Any, name: str = "w.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


def assert_state(found: dict[str, Tensor]) -> None:
    assert list(found) == list(STATE)
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in STATE.items()}


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (dict(STATE), ""),
        ({"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 0.1}}, "took state_dict"),
        ({"model": STATE, "model_ema": STATE, "args": {}}, "took model of the file, not model_ema"),
        ({"model_state_dict": STATE}, "took model_state_dict"),
        ({"net": {"state_dict": STATE}}, "took net of the file; took state_dict of the file"),
        (prefixed("module."), "removed module."),
        (prefixed("_orig_mod."), "removed _orig_mod."),
        ({"state_dict": prefixed("module._orig_mod.module.")}, "removed module."),
    ],
)
def test_wrapped_and_prefixed_weights_are_found(tmp_path: Path, content: Any, note: str) -> None:
    found = read_weights(saved(tmp_path, content))
    assert_state(found.state)
    assert note in "; ".join(found.notes)


def test_old_form_of_torch_files_is_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert_state(read_weights(tmp_path / "w.pt").state)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    found = read_weights(tmp_path / "w.safetensors").state
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)


def test_prefix_that_the_network_lacks_is_removed(tmp_path: Path) -> None:
    found = fit_prefix(read_weights(saved(tmp_path, prefixed("model."))), STATE)
    assert_state(found.state)
    assert found.notes == ("removed model. from the keys of the file",)
    kept = fit_prefix(read_weights(saved(tmp_path, prefixed("model."))), prefixed("model."))
    assert list(kept.state) == list(prefixed("model."))


class Runs:
    """An object whose pickle makes a file when it is read by pickle itself."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return (Path.touch, (self.made,))


@pytest.mark.parametrize("wrap", [lambda it: it, lambda it: {"state_dict": STATE, "x": it}])
@pytest.mark.parametrize("zipped", [True, False])
def test_B9_pickle_with_code_is_refused_and_does_not_run(
    tmp_path: Path, wrap: Any, zipped: bool
) -> None:
    made, path = tmp_path / "made", tmp_path / "w.pth"
    torch.save(wrap(Runs(made)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(NotImportable, match="got a pickle with Python objects") as refused:
        read_weights(path)
    assert len(refused.value.faults) == 1
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (network(), "it calls for torch.nn.modules.container.Sequential"),
        ({"state_dict": STATE, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({"epoch": 3}, "expected a state_dict, or one under state_dict"),
        ([1, 2], "expected a state_dict"),
        ({}, "expected a state_dict"),
        ({"state_dict": {"a": 1}}, "expected a state_dict"),
    ],
)
def test_file_without_weights_alone_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(NotImportable, match=r"w\.pth: ") as refused:
        read_weights(saved(tmp_path, content))
    assert words in str(refused.value)


def test_plain_pickle_and_other_files_are_refused(tmp_path: Path) -> None:
    for content in (pickle.dumps({"a": 1}), b"", b"PK\x03\x04", b"hello", bytes(1000)):
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(NotImportable, match=r"^w\.pth: expected "):
            read_weights(tmp_path / "w.pth")
    with pytest.raises(NotImportable, match="expected a file of weights, got none"):
        read_weights(tmp_path / "missing.pth")


def test_half_a_file_of_torch_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, STATE)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(NotImportable, match=r"^w\.pth: expected a file of PyTorch weights"):
        read_weights(path)


def test_programs_of_torch_are_refused_with_the_way_to_onnx(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jit: Any = torch.jit
        jit.save(jit.trace(network().eval(), torch.zeros(1, 3, 8, 8)), str(tmp_path / "w.pt"))
    with pytest.raises(NotImportable, match="got a TorchScript program; export the network"):
        read_weights(tmp_path / "w.pt")
    program = torch.export.export(network().eval(), (torch.zeros(2, 3, 8, 8),))
    torch.export.save(program, tmp_path / "w.pt2")
    with pytest.raises(NotImportable, match=r"torch\.onnx\.export\(torch\.export\.load\(FILE\)"):
        read_weights(tmp_path / "w.pt2")


@pytest.mark.parametrize("cut", [0, 4, 8, 20, -1, None])
def test_corrupt_safetensors_file_is_refused(tmp_path: Path, cut: int | None) -> None:
    path = tmp_path / "w.safetensors"
    save_file(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(b"\xff" * 8 + whole[8:] if cut is None else whole[:cut])
    with pytest.raises(NotImportable, match=r"^w\.safetensors: .* header or size is wrong"):
        read_weights(path)


def test_keys_and_shapes_that_do_not_fit_are_named_and_counted(tmp_path: Path) -> None:
    other = nn.Sequential(*[nn.Linear(2, 2) for _ in range(9)])
    found = read_weights(saved(tmp_path, STATE))
    with pytest.raises(NotImportable) as refused:
        load_weights(other, found, arch="own:net")
    text = " | ".join(refused.value.faults)
    assert "w.pth: expected every tensor of own:net, got none for 2.bias" in text
    assert "and 7 more" in text
    assert "expected the shape [2, 2] of 0.weight, as own:net has it, got [4, 3, 3, 3]" in text


def test_weights_without_batch_counts_are_loaded(tmp_path: Path) -> None:
    state = {key: value for key, value in STATE.items() if "num_batches" not in key}
    target = network()
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    load_weights(target, read_weights(saved(tmp_path, state)), arch="own:net")
    assert_state(dict(target.state_dict()))


def test_number_of_classes_is_that_of_the_last_layer(tmp_path: Path) -> None:
    expected = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 1000)
    ).state_dict()
    found = read_weights(saved(tmp_path, STATE))
    assert number_of_classes(found, expected, default=1000) == 5
    same = read_weights(saved(tmp_path, expected))
    assert number_of_classes(same, expected, default=1000) == 1000
    other = read_weights(saved(tmp_path, {"a": torch.zeros(2)}))
    assert number_of_classes(other, expected, default=1000) is None
