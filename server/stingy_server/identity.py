"""The names of a model and its policy: the fingerprint in a header, the digest of a bundle."""

import hashlib
import json
from dataclasses import asdict

from stingy_protection import BundleManifest, Policy

FINGERPRINT_HEADER = "stingy-gate"


def model_fingerprint(manifest: BundleManifest, policy: Policy) -> str:
    """Return the header's value for an answer made with these weights and this policy."""
    return f"{policy.fingerprint} {manifest.sha256}"


def bundle_digest(manifest: BundleManifest, policy: Policy) -> str:
    """Return 64 hex digits that change with weights, any word of the manifest, or policy."""
    content = [asdict(manifest), policy.fingerprint]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
