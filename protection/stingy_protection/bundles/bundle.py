"""Bundles on disk. Invariant: weights are parsed only if their SHA-256 matches, never unpickled."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from stingy_protection.bundles.manifest import (
    MANIFEST_FILE,
    BundleManifest,
    Json,
    Preprocessing,
    parse_manifest,
    read_manifest_file,
)
from stingy_protection.errors import BundleError
from stingy_protection.files import read_regular_file

WEIGHTS_FILE = "weights.safetensors"
MAX_WEIGHTS_BYTES = 2**38


def write_bundle(
    folder: str | os.PathLike[str],
    *,
    model: nn.Module,
    name: str,
    version: str,
    factory: str,
    arguments: Mapping[str, Json],
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    policy: str,
) -> BundleManifest:
    """Write a model's weights and manifest into `folder`. Create the folder if it is missing.

    Both files are written to temporary files and renamed, `model.json` last. So a concurrent
    reader gets the old bundle, the new one, or weights whose SHA-256 does not match.

    Args:
        folder: the folder of the bundle.
        model: the network. Its `state_dict` is stored.

    The other arguments are the fields of `BundleManifest`.

    Raises:
        BundleError: if a field is faulty, or the policy does not fit the classes.
    """
    state = model.state_dict()
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise BundleError(("expected only tensors in the model's state, got another type",))
    # Cloned, because safetensors refuses tensors that share storage.
    weights = save_safetensors(
        {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
    )
    draft = BundleManifest(
        name=name,
        version=version,
        factory=factory,
        arguments=dict(arguments),
        classes=classes,
        preprocessing=preprocessing,
        policy=policy,
        sha256=hashlib.sha256(weights).hexdigest(),
    )
    try:
        text = json.dumps(asdict(draft), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError):
        raise BundleError(("expected fields that JSON can represent, got another value",)) from None
    manifest = parse_manifest(text)  # checked before anything is written
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    _write_atomically(target / WEIGHTS_FILE, weights)
    _write_atomically(target / MANIFEST_FILE, text.encode())
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
    faults = [
        f"expected {name} to be a plain file of the bundle, got none or a link"
        for name in (MANIFEST_FILE, *([WEIGHTS_FILE] if with_weights else []))
        if not _is_plain(Path(folder) / name)
    ]
    if not _is_plain(Path(folder) / MANIFEST_FILE):
        raise BundleError(tuple(faults))
    try:
        manifest = parse_manifest(read_manifest_file(folder))
    except BundleError as error:
        faults += error.faults
    if faults:
        raise BundleError(tuple(faults))
    return manifest


def verified_weights(folder: str | os.PathLike[str], manifest: BundleManifest) -> dict[str, Tensor]:
    """Read the model's state onto the CPU, and check that it has the manifest's SHA-256.

    The file is read once, so that the hashed bytes are the parsed bytes.

    Args:
        folder: the folder of the bundle.
        manifest: the bundle's manifest.

    Raises:
        BundleError: if the file is missing, a link, of another hash, or not a safetensors file.
    """
    path = Path(folder) / WEIGHTS_FILE
    if not _is_plain(path):
        raise BundleError(
            (f"expected {WEIGHTS_FILE} to be a plain file of the bundle, got none or a link",)
        )
    try:
        weights = read_regular_file(path, max_bytes=MAX_WEIGHTS_BYTES)
    except OSError:
        raise BundleError((f"expected {WEIGHTS_FILE} to be readable, got another file",)) from None
    if hashlib.sha256(weights).hexdigest() != manifest.sha256:
        raise BundleError((f"expected {WEIGHTS_FILE} to have the manifest's sha256, got another",))
    try:
        return load_safetensors(weights)
    except SafetensorError:
        raise BundleError((f"expected {WEIGHTS_FILE} in safetensors form, got another",)) from None


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
