"""Settings of an edge before an upstream, an upstream that can be switched, and a good answer."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

from hostile import (
    Behaviour,
    document,
    says,
    tensor,
)
from serving import make_bundle, make_settings, random_images
from stingy_protection import build_policy, parse_policy, read_manifest
from stingy_server import ModelSettings, Settings
from stingy_server.identity import FINGERPRINT_HEADER, model_fingerprint
from stingy_server.settings import TensorSettings

IMAGES = random_images(2)
CANARY = "upstream-text-4711"
INDICES = tensor("indices", "INT64", [1, 2], [3, 7])
SCORES = tensor("scores", "FP32", [1, 2], [-0.105, -2.304])
GOOD = document(INDICES, SCORES)


class Switched:
    """An upstream that answers well until the test says otherwise."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[bytes] = []

    def __call__(self, connection: socket.socket, request: bytes) -> None:
        self.requests.append(request)
        self.behaviour(connection, request)


def edge(
    tmp_path: Path, url: str, *, policy: str = "stingy:n=2", batch_size: int = 1, **options: Any
) -> Settings:
    """Make the settings of an edge that has no weights.

    Args:
        batch_size: 1 for an upstream that has the answer to one image only.
    """
    bundle = make_bundle(tmp_path / "bundle", policy=policy)
    (bundle / "weights.safetensors").unlink()
    tensors = TensorSettings(**options.pop("tensors", {}))
    options = {"timeout_s": 1.0, **options}
    model = ModelSettings(bundle=bundle, engine="oip", url=url, tensors=tensors, **options)
    return make_settings(tmp_path / "state", model, batch_size=batch_size)


def torchserve(tmp_path: Path, url: str) -> Settings:
    """Make the settings of an edge before TorchServe, with a key file."""
    (tmp_path / "key_file.json").write_text('{"inference": {"key": "first"}}', "utf-8")
    model = ModelSettings(
        bundle=make_bundle(tmp_path / "bundle", policy="stingy:n=2"),
        engine="torchserve",
        url=url,
        key_file=tmp_path / "key_file.json",
    )
    return make_settings(tmp_path / "state", model, batch_size=1)


def marked(tmp_path: Path, policy: str = "stingy:n=2", *, sha256: str | None = None) -> Behaviour:
    """Return an answer that names the policy and weights it was made with."""
    manifest = read_manifest(make_bundle(tmp_path / "marked", policy=policy))
    name, options = parse_policy(policy)
    made = model_fingerprint(
        replace(manifest, sha256=sha256 or manifest.sha256),
        build_policy(name, num_classes=10, **options),
    )
    return says(GOOD, f"{FINGERPRINT_HEADER}: {made}")
