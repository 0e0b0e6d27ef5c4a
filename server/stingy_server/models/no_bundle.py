"""Advice for a path that is no bundle."""

import shlex
from pathlib import Path

from stingy_protection.bundles.manifest import MANIFEST_FILE

PACKABLE = (".bin", ".ckpt", ".onnx", ".pt", ".pt2", ".pth", ".safetensors")


def suggest_pack(path: Path) -> str:
    """Return the end of a sentence about a path without a manifest; empty if it has one.

    Args:
        path: the path that was given for a bundle.
    """
    try:
        if (path / MANIFEST_FILE).exists():
            return ""
        if not path.exists():
            return "; there is nothing of this name"
        if path.suffix.lower() in PACKABLE or (path / "config.json").is_file():
            return f"; make a bundle of it: stingy bundle pack {shlex.quote(str(path))}"
    except (OSError, ValueError):  # such as a name that is too long
        return ""
    return "; make a bundle of a network with stingy bundle pack"
