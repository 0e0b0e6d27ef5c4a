"""Two names of a model with its policy: a fingerprint for a header, and a bundle's digest."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from stingy_protection import BundleManifest, Policy

FINGERPRINT_HEADER = "stingy-gate"


def model_fingerprint(manifest: BundleManifest, policy: Policy) -> str:
    """Return the header value that names an answer's weights and policy."""
    return f"{policy.fingerprint} {manifest.sha256}"


def bundle_digest(manifest: BundleManifest, policy: Policy) -> str:
    """Return 64 hex digits that change with weights, manifest or policy."""
    content = [_digested_fields(manifest), policy.fingerprint]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digested_fields(manifest: BundleManifest) -> dict[str, Any]:
    """Return a manifest's fields without those of format 2 that have their defaults.

    So a bundle of format 1 keeps the digest that release 0.1.0 wrote into its state.
    """
    fields = asdict(manifest)
    for values, defaults in (
        (fields, {"weights": "safetensors", "outputs": "logits", "source": ""}),
        (
            fields["preprocessing"],
            {
                "resize_to": None,
                "crop": manifest.preprocessing.resize_shorter is not None,
                "crop_rounding": "even",
                "interpolation": "bilinear",
                "channels": 3,
                "exif_rotation": False,
            },
        ),
    ):
        for name, default in defaults.items():
            if values[name] == default:
                del values[name]
    return fields
