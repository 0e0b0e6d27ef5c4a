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
from stingy_server.importers.kinds import describe_pointer, recognise

MAX_FILE_BYTES = 2**38
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "model_state",
)
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
    _check_content(path)
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
    """Remove a prefix under which the file has the whole network, such as Lightning's `model.`.

    Beside the network a training step may keep numbers of its own, such as the weights of a loss
    or a count of averages. Vectors and scalars outside the prefix are left out.

    Args:
        expected: the keys of the network.

    Raises:
        NotImportable: if the file has the network more than once.
    """
    keys = [key for key in expected if not key.endswith("num_batches_tracked")]
    state = found.state
    if not keys or keys[0] in state:
        return found
    ending = "." + keys[0]
    prefixes = [key.removesuffix(keys[0]) for key in state if key.endswith(ending)]
    fitting = [prefix for prefix in prefixes if all(prefix + key in state for key in keys)]
    if len(fitting) > 1:
        raise NotImportable(
            f"{found.file}: expected one network, got one under each of {', '.join(fitting[:5])}; "
            "save the state_dict of one"
        )
    if not fitting:
        return found
    (prefix,) = fitting
    inside = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    others = {key: value for key, value in state.items() if not key.startswith(prefix)}
    layers = {key: value for key, value in others.items() if value.dim() > 1}
    notes = [*found.notes, f"removed {prefix} from the keys of the file"]
    if left_out := sorted(others.keys() - layers.keys()):
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        notes.append(f"left out {', '.join(left_out[:3])}{more}, which the network lacks")
    return WeightsFound(found.file, inside | layers, tuple(notes))


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


def _check_content(path: Path) -> None:
    """Check that the content of a file is what its name says."""
    try:
        content = recognise(path)
    except OSError as error:
        raise NotImportable(
            f"{path}: expected a file that can be read, got {error.strerror}"
        ) from None
    if content == "pointer":
        raise NotImportable(describe_pointer(path.name))
    if path.suffix.lower() == ".safetensors":
        if content == "torch":
            raise NotImportable(
                f"{path.name}: expected a safetensors file, got one of torch.save; "
                f"name it {path.stem}.pth"
            )
    elif content == "safetensors":
        raise NotImportable(
            f"{path.name}: expected a file of torch.save, got a safetensors file; "
            f"name it {path.stem}.safetensors"
        )
    elif content == "other":
        raise NotImportable(f"{path.name}: expected a file of torch.save, got other content")


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
    raise NotImportable(
        f"{path.name}: expected a file of PyTorch weights, got a damaged one ({failure})"
    )


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
    """Find the state_dict in a checkpoint, and note where it was found.

    The usual names come first, then those of averaged weights, then a name that only one has.
    """
    notes: list[str] = []
    while isinstance(content, Mapping) and not _is_state(content):
        inside = [name for name, value in content.items() if _has_state(name, value)]
        usual = [name for name in (*WRAPPERS, *AVERAGED) if name in inside]
        if not usual and len(inside) > 1:
            raise NotImportable(
                f"{file}: expected one state_dict, got {', '.join(inside[:5])}; "
                "save the one of the network alone"
            )
        if not inside:
            break
        chosen = (usual or inside)[0]
        notes.append(f"took {chosen} of the file" + _left_out(usual[1:]))
        content = content[chosen]
    if isinstance(content, Mapping) and _is_state(content):
        return dict(content), notes
    raise NotImportable(
        f"{file}: expected a state_dict, or one under {', '.join(WRAPPERS[:4])}, "
        f"got {_describe(content)}"
    )


def _has_state(name: Any, value: Any) -> bool:
    """Return true for a mapping that is a network's state_dict or has one within."""
    if not isinstance(value, Mapping) or not isinstance(name, str) or "optim" in name:
        return False
    if _is_state(value):
        return any(tensor.dim() > 1 for tensor in value.values())
    return any(_has_state(inner, each) for inner, each in value.items())


def _describe(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    return f"a dict of {', '.join(str(name)[:64] for name in list(content)[:5]) or 'nothing'}"


def _left_out(names: list[str]) -> str:
    return f", not {', '.join(names)}" if names else ""


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )
