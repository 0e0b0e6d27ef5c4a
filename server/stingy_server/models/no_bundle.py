"""Advice for a path that is no bundle."""

import shlex
from pathlib import Path

from stingy_protection.bundles.manifest import MANIFEST_FILE

PACKABLE = (".bin", ".ckpt", ".onnx", ".pt", ".pt2", ".pth", ".safetensors")
REGISTRIES = ("torchvision:", "timm:")


def suggest_pack(path: Path) -> str:
    """Return the end of a sentence about a path without a manifest; empty if it has one.

    Args:
        path: the path that was given for a bundle.
    """
    quoted = shlex.quote(str(path))
    try:
        if (path / MANIFEST_FILE).exists():
            return ""
        is_source = path.suffix.lower() in PACKABLE or (path / "config.json").is_file()
        if (is_source and path.exists()) or _names_code(str(path)):
            return f"; make a bundle of it: stingy bundle pack {quoted}"
        if not path.exists():
            return "; there is nothing of this name"
        inside = sorted(file.parent for file in path.glob(f"*/{MANIFEST_FILE}"))
    except (OSError, ValueError):  # such as a name that is too long
        return ""
    if inside:
        return f"; there are bundles in it, such as {shlex.quote(str(inside[0]))}"
    return "; make a bundle of a network with stingy bundle pack"


def _names_code(text: str) -> bool:
    """Return true for a source of `stingy bundle pack` that is no path, such as timm:NAME."""
    return text.startswith(REGISTRIES) or ".py:" in text
