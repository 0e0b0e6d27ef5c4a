"""Files of PyTorch weights: reading, unwrapping, and fitting into a network.

Only the process that packs reads such a file. A pickle is read with torch's restricted unpickler,
which builds tensors and containers and calls no code.
"""

import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from stingy_protection import BundleError
from stingy_protection.bundles.state import fit_state
from stingy_protection.files import read_regular_file
from stingy_server.importers.found import NotImportable

MAX_FILE_BYTES = 2**38
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
AVERAGED = ("model_ema", "state_dict_ema", "ema", "ema_state_dict")


@dataclass(frozen=True, eq=False)
class WeightsFound:
    """The tensors of a file, by the names of the network, and notes on how they were found."""

    file: str
    state: dict[str, Tensor]
    notes: tuple[str, ...]


def read_weights(path: Path) -> WeightsFound:
    """Read the tensors of a `.pth`, `.pt` or `.safetensors` file, without its wrappers.

    Raises:
        NotImportable: if the file is missing, holds code, is another kind of file, or has no
            tensors.
    """
    if not path.is_file():
        raise NotImportable(f"{path}: expected a file of weights, got none")
    notes: list[str] = []
    if path.suffix.lower() == ".safetensors":
        state = _read_safetensors(path)
    else:
        state, notes = _unwrap(path.name, _read_pickle(path))
    compiled = [key for key in state if "_orig_mod." in key]
    if compiled:
        state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
        notes.append("removed _orig_mod. from the keys")
    while state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
        notes.append("removed module. from the keys")
    return WeightsFound(path.name, state, tuple(notes))


def fit_prefix(found: WeightsFound, expected: Iterable[str]) -> WeightsFound:
    """Remove a prefix that all keys share, such as Lightning's `model.`, if the network has none.

    Args:
        expected: the keys of the network.
    """
    expected = set(expected)
    state, notes = found.state, list(found.notes)
    first = next(iter(state)).partition(".")[0] + "."
    shared = all(key.startswith(first) for key in state)
    if shared and not any(key.startswith(first) for key in expected):
        shorter = {key.removeprefix(first): value for key, value in state.items()}
        if expected & set(shorter):
            return WeightsFound(
                found.file, shorter, (*notes, f"removed {first} from the keys of the file")
            )
    return found


def number_of_classes(
    found: WeightsFound, expected: Mapping[str, Tensor], *, default: int
) -> int | None:
    """Find the number of classes: the rows of the weights that alone differ from the network's.

    Args:
        expected: the state of the network as it is built for `default` classes.
        default: the number of classes of that network.

    Returns:
        The number, or None if the file does not show it.
    """
    rows = {
        value.shape[0]
        for key, value in found.state.items()
        if key in expected
        and value.dim() > 0
        and expected[key].dim() == value.dim()
        and expected[key].shape[0] == default
        and value.shape[1:] == expected[key].shape[1:]
        and value.shape[0] != default
    }
    if not rows:
        heads = [key for key in expected if expected[key].shape[:1] == (default,)]
        return default if any(key in found.state for key in heads) else None
    return rows.pop() if len(rows) == 1 else None


def load_weights(network: nn.Module, found: WeightsFound, *, arch: str) -> None:
    """Load the tensors of a file into a network.

    Args:
        arch: the architecture, for the sentences of the faults.

    Raises:
        NotImportable: if keys or shapes do not fit. The faults name a few and count the rest.
    """
    state = dict(found.state)
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):  # files of torch before 0.4.1 have none
            state.setdefault(name, value)
    try:
        network.load_state_dict(fit_state(state, network, factory=arch))
    except BundleError as error:
        raise NotImportable(*(f"{found.file}: {fault}" for fault in error.faults)) from None
    except Exception as error:  # noqa: BLE001  a module may override how it loads weights
        raise NotImportable(
            f"{found.file}: expected weights that fit {arch}, got {type(error).__name__}"
        ) from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state = load_safetensors(read_regular_file(path, max_bytes=MAX_FILE_BYTES))
    except (SafetensorError, OSError, ValueError, KeyError):
        raise NotImportable(
            f"{path.name}: expected a safetensors file, got one whose header or size is wrong; "
            "copy it again"
        ) from None
    if not state:
        raise NotImportable(f"{path.name}: expected tensors, got none")
    return state


def _read_pickle(path: Path) -> Any:
    """Read a pickle of tensors and containers. Name what it is, if it is another file."""
    kind = _archive_kind(path)
    if kind == "TorchScript":
        raise NotImportable(
            f"{path.name}: expected weights, got a TorchScript program; export the network that it "
            "was made from to ONNX with torch.onnx.export and pack that, or save its state_dict"
        )
    if kind == "pt2":
        raise NotImportable(
            f"{path.name}: expected weights, got a torch.export program; write it as ONNX with "
            "torch.onnx.export(torch.export.load(FILE), f='model.onnx', dynamo=True) and pack that"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch names its own files for an old format
            return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged or hostile file ends in errors of many types; their text may be pages long.
    except Exception as error:  # noqa: BLE001
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        failure = type(error).__name__
    if wanted is not None or failure == "UnpicklingError":
        needs = "" if wanted is None else f" (it calls for {wanted[1]})"
        raise NotImportable(
            f"{path.name}: expected tensors alone, got a pickle with Python objects{needs}, which "
            "is not loaded; save the weights alone with torch.save(network.state_dict(), FILE)"
        )
    raise NotImportable(f"{path.name}: expected a file of PyTorch weights, got {failure}")


def _archive_kind(path: Path) -> str | None:
    """Name the archive that is no file of weights, by the files in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return None
    if "constants.pkl" in names:
        return "TorchScript"
    if "data.pkl" not in names and any(name.startswith("models/") for name in names):
        return "pt2"
    return None


def _unwrap(file: str, content: Any) -> tuple[dict[str, Tensor], list[str]]:
    notes: list[str] = []
    while isinstance(content, Mapping) and not _is_state(content):
        inside = [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if not inside:
            break
        averaged = [name for name in AVERAGED if name in content]
        notes.append(f"took {inside[0]} of the file" + _left_out([*inside[1:], *averaged]))
        content = content[inside[0]]
    if isinstance(content, Mapping) and _is_state(content):
        return dict(content), notes
    raise NotImportable(
        f"{file}: expected a state_dict, or one under {', '.join(WRAPPERS[:4])}, got another value"
    )


def _left_out(names: list[str]) -> str:
    return f", not {', '.join(names)}" if names else ""


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )
