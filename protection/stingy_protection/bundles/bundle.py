"""Bundles on disk. Invariant: no byte is parsed before its SHA-256 is right, and no pickle ever."""

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
)
from stingy_protection.errors import BundleError

WEIGHTS_FILE = "weights.safetensors"


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
    """Write a model's weights and manifest into `folder`, which is made if need be.

    Both files are written aside and renamed, `model.json` last, so a reader meets the old bundle,
    the new one, or weights whose SHA-256 does not fit.

    Raises:
        BundleError: the description is faulty or its policy does not fit the classes.
    """
    state = model.state_dict()
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise BundleError(("expected tensors alone in the model's state, got another type",))
    # Cloned, as safetensors refuses tensors that share storage.
    weights = save_safetensors(
        {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
    )
    written = BundleManifest(
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
        text = json.dumps(asdict(written), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError):
        raise BundleError(("expected fields that fit into JSON, got another value",)) from None
    manifest = parse_manifest(text)  # what is written must be readable
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    _replace(target / WEIGHTS_FILE, weights)
    _replace(target / MANIFEST_FILE, text.encode())
    return manifest


def read_manifest(folder: str | os.PathLike[str], *, with_weights: bool = True) -> BundleManifest:
    """Read and check `model.json`; the weights are not opened.

    Args:
        with_weights: whether they must be there; they need not where the model runs elsewhere.

    Raises:
        BundleError: with every fault found.
    """
    faults = [
        f"expected {name} to be a plain file of the bundle, got none or a link"
        for name in (MANIFEST_FILE, *([WEIGHTS_FILE] if with_weights else []))
        if not _is_plain(Path(folder) / name)
    ]
    if not _is_plain(Path(folder) / MANIFEST_FILE):
        raise BundleError(tuple(faults))
    try:
        manifest = parse_manifest((Path(folder) / MANIFEST_FILE).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        faults.append(f"expected {MANIFEST_FILE} to be UTF-8, got other bytes")
    except BundleError as error:
        faults += error.faults
    if faults:
        raise BundleError(tuple(faults))
    return manifest


def verified_weights(folder: str | os.PathLike[str], manifest: BundleManifest) -> dict[str, Tensor]:
    """The state of the model, on the CPU, if the file has the manifest's SHA-256.

    The bytes are read once: what is hashed is what is parsed.

    Raises:
        BundleError: the file is missing, a link, of another hash or no safetensors file.
    """
    path = Path(folder) / WEIGHTS_FILE
    if not _is_plain(path):
        raise BundleError(
            (f"expected {WEIGHTS_FILE} to be a plain file of the bundle, got none or a link",)
        )
    weights = path.read_bytes()
    if hashlib.sha256(weights).hexdigest() != manifest.sha256:
        raise BundleError((f"expected {WEIGHTS_FILE} to have the manifest's sha256, got another",))
    try:
        return load_safetensors(weights)
    except SafetensorError:
        raise BundleError((f"expected {WEIGHTS_FILE} in safetensors form, got another",)) from None


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _replace(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
