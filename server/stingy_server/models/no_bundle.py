"""The sentence for a path that is no bundle: what it is, and what to do with it."""

import shlex
from pathlib import Path

from stingy_protection.bundles.bundle import WEIGHTS_FILES
from stingy_protection.bundles.manifest import MANIFEST_FILE

PACKABLE = (".bin", ".ckpt", ".onnx", ".pt", ".pt2", ".pth", ".safetensors")
REGISTRIES = ("torchvision:", "timm:")
PACK = "make a bundle of a network with stingy bundle pack"


def explain_no_bundle(path: Path) -> str | None:
    """Return the sentence for a path without a manifest; None if it has one, or cannot be read.

    Args:
        path: the path that was given for a bundle.
    """
    try:
        manifest = path / MANIFEST_FILE
        if manifest.exists() or manifest.is_symlink():
            return None
        return f"expected a bundle, got {_describe(path)}"
    except (OSError, ValueError):  # such as a name that is too long
        return None


def _describe(path: Path) -> str:
    pack = f"make a bundle of it: stingy bundle pack {shlex.quote(str(path))}"
    text = str(path)
    if text.startswith(REGISTRIES) or ".py:" in text:
        return f"the name of a network; {pack}"
    if not path.exists():
        return "nothing of this name"
    inside = (MANIFEST_FILE, *WEIGHTS_FILES.values())
    if path.name in inside and (path.parent / MANIFEST_FILE).exists():
        return f"a file of one; give its folder: {shlex.quote(str(path.parent))}"
    if path.suffix.lower() in PACKABLE:
        return f"the file of a network; {pack}"
    if not path.is_dir():
        return f"another file; {PACK}"
    if (path / "config.json").is_file():
        return f"a Hugging Face folder; {pack}"
    bundles = sorted(file.parent for file in path.glob(f"*/{MANIFEST_FILE}"))
    if bundles:
        return f"a folder of bundles; give one, such as {shlex.quote(str(bundles[0]))}"
    return f"a folder without {MANIFEST_FILE}; {PACK}"
