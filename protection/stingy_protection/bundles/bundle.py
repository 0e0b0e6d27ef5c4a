"""Bundles on disk. Invariant: weights are parsed only if their SHA-256 matches, never unpickled."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from stingy_protection.bundles.manifest import (
    MANIFEST_FILE,
    BundleManifest,
    Json,
    Outputs,
    Weights,
    format_manifest,
    parse_manifest,
    read_manifest_file,
)
from stingy_protection.bundles.preprocessing import Preprocessing
from stingy_protection.bundles.state import build_network, fit_state
from stingy_protection.errors import BundleError
from stingy_protection.files import read_regular_file

WEIGHTS_FILES: dict[Weights, str] = {"safetensors": "weights.safetensors", "onnx": "model.onnx"}
MAX_WEIGHTS_BYTES = 2**38


def write_bundle(
    folder: str | os.PathLike[str],
    *,
    model: nn.Module | bytes | None,
    name: str,
    version: str,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    policy: str,
    factory: str = "",
    arguments: Mapping[str, Json] | None = None,
    outputs: Outputs = "logits",
    source: str = "",
) -> BundleManifest:
    """Write a model's weights and manifest into `folder`. Create the folder if it is missing.

    A network's factory is called once, and the weights must fit the network that it builds. The
    names that `DataParallel` and `torch.compile` put before a network's own are removed.

    All files are written to temporary files and renamed, `model.json` last. So a concurrent
    reader gets the old bundle, the new one, or weights whose SHA-256 does not match.

    Args:
        folder: the folder of the bundle.
        model: the network, whose `state_dict` is stored; or the bytes of an ONNX program; or None
            if another server runs the model.
        factory, arguments: of a network alone.

    The other arguments are the fields of `BundleManifest`.

    Raises:
        BundleError: if a field is faulty, the policy does not fit the classes, or the weights do
            not fit the network. Nothing is written then.
    """
    kind: Weights | None = "safetensors" if isinstance(model, nn.Module) else "onnx"
    manifest = BundleManifest(
        name=name,
        version=version,
        classes=tuple(classes),
        preprocessing=preprocessing,
        policy=policy,
        factory=factory,
        arguments=dict(arguments or {}),
        sha256="" if model is None else "0" * 64,
        weights=None if model is None else kind,
        outputs=outputs,
        source=source,
    )
    if not isinstance(model, nn.Module) and (factory or arguments):
        raise BundleError(("expected a factory and arguments for a network alone, got some",))
    manifest = parse_manifest(_format_text(manifest))  # checked before anything is written
    weights = _pack_state(model, manifest) if isinstance(model, nn.Module) else model
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    if weights is not None:
        manifest = replace(manifest, sha256=hashlib.sha256(weights).hexdigest())
        _write_atomically(weights_path(target, manifest), weights)
    _write_atomically(target / MANIFEST_FILE, _format_text(manifest).encode())
    return manifest


def read_manifest(folder: str | os.PathLike[str], *, with_weights: bool = True) -> BundleManifest:
    """Read and check `model.json`. The weights are not opened.

    Args:
        folder: the folder of the bundle.
        with_weights: True if the weights file must exist. An upstream's bundle needs none,
            because the model runs elsewhere.

    Raises:
        BundleError: if the bundle is faulty. It lists every fault.
    """
    if not _is_plain(Path(folder) / MANIFEST_FILE):
        raise BundleError((_lacking(MANIFEST_FILE),))
    manifest = parse_manifest(read_manifest_file(folder))
    if with_weights and manifest.weights is None:
        raise BundleError(
            (
                "expected a bundle with weights, got one for another model server; "
                'set engine = "oip" and its url in [[models]] of the settings',
            )
        )
    if with_weights and not _is_plain(weights_path(folder, manifest)):
        raise BundleError((_lacking(weights_path(folder, manifest).name),))
    return manifest


def weights_path(folder: str | os.PathLike[str], manifest: BundleManifest) -> Path:
    """Return the path of a bundle's weights file. The bundle must have one."""
    return Path(folder) / WEIGHTS_FILES[manifest.weights or "safetensors"]


def verified_weights(folder: str | os.PathLike[str], manifest: BundleManifest) -> dict[str, Tensor]:
    """Read the state of a bundle's network onto the CPU, once its SHA-256 is the manifest's.

    Args:
        folder: the folder of the bundle.
        manifest: the bundle's manifest.

    Raises:
        BundleError: if the file is missing, a link, of another hash, or not a safetensors file.
    """
    if manifest.weights != "safetensors":
        raise BundleError(("expected a bundle with a network's weights, got another kind",))
    content = verified_bytes(folder, manifest)
    try:
        return load_safetensors(content)
    except SafetensorError:
        name = WEIGHTS_FILES["safetensors"]
        raise BundleError((f"expected {name} in safetensors form, got another",)) from None


def verified_bytes(folder: str | os.PathLike[str], manifest: BundleManifest) -> bytes:
    """Read a bundle's weights file, of any kind, and check that it has the manifest's SHA-256.

    The file is read once, so that the hashed bytes are those that are used.

    Raises:
        BundleError: if the file is missing, a link, or of another hash.
    """
    path = weights_path(folder, manifest)
    if not _is_plain(path):
        raise BundleError((_lacking(path.name),))
    try:
        content = read_regular_file(path, max_bytes=MAX_WEIGHTS_BYTES)
    except OSError:
        raise BundleError((f"expected {path.name} to be readable, got another file",)) from None
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise BundleError((f"expected {path.name} to have the manifest's sha256, got another",))
    return content


def _pack_state(model: nn.Module, manifest: BundleManifest) -> bytes:
    """Return a network's state as safetensors, under the names of the factory's network."""
    state = model.state_dict()
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise BundleError(("expected only tensors in the model's state, got another type",))
    built = build_network(manifest.factory, manifest.arguments)
    fitted = fit_state(state, built, factory=manifest.factory)
    # Cloned, because safetensors refuses tensors that share storage.
    content: bytes = save_safetensors(
        {key: value.detach().cpu().clone().contiguous() for key, value in fitted.items()}
    )
    return content


def _format_text(manifest: BundleManifest) -> str:
    try:
        fields = format_manifest(manifest)
        return json.dumps(fields, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError, RecursionError):
        raise BundleError(("expected fields that JSON can represent, got another value",)) from None


def _lacking(name: str) -> str:
    return f"expected {name} to be a plain file of the bundle, got none or a link"


def _is_plain(path: Path) -> bool:
    try:
        return path.is_file() and not path.is_symlink()
    except (OSError, ValueError):  # such as a name that is too long or has a null character
        return False


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
