"""Two names of a model with its policy: a fingerprint for a header, and a bundle's digest."""

import hashlib
import json
from dataclasses import asdict

from stingy_protection import BundleManifest, Policy

FINGERPRINT_HEADER = "stingy-gate"


def model_fingerprint(manifest: BundleManifest, policy: Policy) -> str:
    """Return the header value that names an answer's weights and policy."""
    return f"{policy.fingerprint} {manifest.sha256}"


def bundle_digest(manifest: BundleManifest, policy: Policy) -> str:
    """Return 64 hex digits that change with weights, manifest or policy."""
    content = [asdict(manifest), policy.fingerprint]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
