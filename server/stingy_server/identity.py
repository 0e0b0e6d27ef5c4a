"""How a model and its policy are told from others."""

import hashlib
import json
from dataclasses import asdict

from stingy_protection import BundleManifest, Policy

MARK_HEADER = "stingy-gate"


def mark(manifest: BundleManifest, policy: Policy) -> str:
    """What an answer's header says of the weights and the policy it was made with."""
    return f"{policy.fingerprint} {manifest.sha256}"


def identity(manifest: BundleManifest, policy: Policy) -> str:
    """64 hex digits that change with the weights, any word of the manifest, or the policy."""
    told = [asdict(manifest), policy.fingerprint]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
