"""TorchServe's files: an archive with the gate as handler, and a configuration for loopback only.

An archive contains no code but an import. The worker uses the gate of the Stingy installed in its
own environment, and without Stingy it does not load.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

from stingy_protection import BundleError, BundleManifest, NoisyPolicy, Policy
from stingy_protection.bundles.bundle import weights_path
from stingy_protection.bundles.manifest import MANIFEST_FILE, format_manifest, parse_manifest
from stingy_server.settings import Settings

CONFIG_FILE = "model-config.yaml"
HANDLER_FILE = "stingy_gate.py"
HANDLER = '''"""The gate of the Stingy that is installed in the worker's environment."""

from stingy_server.torchserve.handler import Handler


class GatedHandler(Handler):
    """The one class of this file, which TorchServe uses as the handler."""
'''
# The bytes of a request beside its pixels, and of an answer beside its numbers.
FRAME_BYTES = 64 * 1024
# TorchServe's own default, with room for an image file sent directly to a worker.
LEAST_REQUEST_BYTES = 6_553_500
QUEUED_REQUESTS = 1024  # more than edges send at once with default settings
TOKEN_MINUTES = 10 * 365 * 24 * 60
# The settings of the operator that also apply to the worker.
WORKER_SETTINGS = {"strict", "precision", "batch_size", "max_pixels", "trusted_factories"}


def write_archive(
    folder: Path,
    *,
    manifest: BundleManifest,
    policy: Policy,
    policy_text: str,
    bundle: Path,
    settings: Settings,
) -> Path:
    """Write NAME.mar for a bundle that has been checked, and return its path.

    Args:
        folder: the folder of the archive; created if missing.
        policy_text: the policy in the form of a bundle's manifest.
        settings: those of `WORKER_SETTINGS` also apply to the worker.

    Raises:
        BundleError: if the policy needs a secret, which an archive must not contain.
    """
    if isinstance(policy, NoisyPolicy):
        raise BundleError(
            (f"expected a policy without keyed noise, got {policy.name}; it needs a secret",)
        )
    served = replace(manifest, policy=policy_text)
    worker = settings.model_dump(mode="json", include=WORKER_SETTINGS)
    # No batching in TorchServe, because one request may already contain many images.
    config = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 1, "stingy": worker}
    described = {
        "createdOn": "",
        "runtime": "python",
        "model": {
            "modelName": manifest.name,
            "handler": HANDLER_FILE,
            "modelVersion": manifest.version,
            "configFile": CONFIG_FILE,
        },
        "archiverVersion": "0.12.0",
    }
    content = {
        "MAR-INF/MANIFEST.json": json.dumps(described).encode(),
        HANDLER_FILE: HANDLER.encode(),
        CONFIG_FILE: json.dumps(config, indent=2).encode(),  # JSON is YAML
        MANIFEST_FILE: json.dumps(format_manifest(served), indent=2, ensure_ascii=False).encode(),
        weights_path(bundle, manifest).name: weights_path(bundle, manifest).read_bytes(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{manifest.name}.mar"
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with ZipFile(aside, "w", ZIP_DEFLATED) as archive:
            for name, data in content.items():
                # Without a time stamp, so the bytes are always the same.
                archive.writestr(ZipInfo(name), data)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return target


@dataclass(frozen=True)
class Archive:
    """The parts of a .mar file that a configuration depends on."""

    file: str
    manifest: BundleManifest
    batch_size: int


def read_archives(store: Path) -> list[Archive]:
    """Read the archives in a folder.

    Raises:
        BundleError: if there is no archive, or one was not made by `write_archive`.
    """
    archives: list[Archive] = []
    faults: list[str] = []
    for path in sorted(store.glob("*.mar")):
        try:
            with ZipFile(path) as archive:
                handler = archive.read(HANDLER_FILE).decode()
                manifest = parse_manifest(archive.read(MANIFEST_FILE).decode())
                config = json.loads(archive.read(CONFIG_FILE))
            batch_size = config["stingy"]["batch_size"]
        except (OSError, BadZipFile, KeyError, ValueError, BundleError):
            handler = ""
        if handler != HANDLER:
            faults.append(f"{path.name}: expected an archive of stingy torchserve archive")
        else:
            archives.append(Archive(path.name, manifest, batch_size))
    if not archives and not faults:
        faults.append("expected at least one .mar file in the model store, got none")
    if faults:
        raise BundleError(tuple(faults))
    return archives


def configuration(store: Path, archives: Sequence[Archive], *, port: int) -> str:
    """Write the text of a config.properties.

    All addresses are on loopback, requests need tokens, and models come from the store alone.

    Args:
        store: the folder of the archives.
        port: the port of predictions. Management, metrics and the two gRPC services take the next
            four ports, and the workers' sockets are numbered from `port` + 5.
    """
    largest = max(
        archive.batch_size
        * 3
        * archive.manifest.preprocessing.size[0]
        * archive.manifest.preprocessing.size[1]
        for archive in archives
    )
    answers = max(archive.batch_size * len(archive.manifest.classes) for archive in archives)
    properties = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"http://127.0.0.1:{port + 1}",
        "metrics_address": f"http://127.0.0.1:{port + 2}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_inference_port": port + 3,
        "grpc_management_address": "127.0.0.1",
        "grpc_management_port": port + 4,
        "initial_worker_port": port + 5,
        "enable_model_api": "false",
        "disable_token_authorization": "false",
        "token_expiration_min": TOKEN_MINUTES,
        "enable_envvars_config": "false",
        "install_py_dep_per_model": "false",
        "allowed_urls": f"file://{store.resolve()}/.*",
        "model_store": store.resolve(),
        "load_models": ",".join(archive.file for archive in archives),
        "decode_input_request": "false",
        "job_queue_size": QUEUED_REQUESTS,
        "max_request_size": max(largest + FRAME_BYTES, LEAST_REQUEST_BYTES),
        "max_response_size": answers * 32 + FRAME_BYTES,
    }
    return "".join(f"{name}={value}\n" for name, value in properties.items())
