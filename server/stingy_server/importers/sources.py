"""The importer of a source, chosen by its form."""

from pathlib import Path

from stingy_protection.bundles.manifest import MANIFEST_FILE
from stingy_server.importers.architecture import Architecture, import_weights
from stingy_server.importers.found import Found, ImportOptions, NotImportable
from stingy_server.importers.hugging_face import import_hugging_face, is_hugging_face
from stingy_server.importers.kinds import explain_source, recognise
from stingy_server.importers.onnx_file import import_onnx
from stingy_server.importers.own_code import import_own_code, is_own_code
from stingy_server.importers.state_file import read_weights
from stingy_server.importers.timm_model import TimmModel
from stingy_server.importers.torchvision_model import TorchvisionModel

WEIGHTS = (".pth", ".pt", ".pt2", ".safetensors", ".bin", ".ckpt", ".tar", ".pkl", ".pickle")
FORMS = (
    "a .pth, .pt or .safetensors file with --arch, torchvision:NAME, timm:NAME or FILE.py:FUNCTION "
    "with --weights, an .onnx file, or a Hugging Face folder"
)


def import_source(source: str, options: ImportOptions) -> Found:
    """Find the classifier in a source.

    Nothing is fetched: every file must be on this machine.

    Args:
        source: the source, as a person writes it.

    Raises:
        NotImportable: if it is no classifier that can be packed.
    """
    path = Path(source)
    if is_own_code(source):
        _require(options.arch is None, "--arch", "FILE.py:FUNCTION names the architecture")
        weights = None if options.weights is None else read_weights(options.weights)
        return import_own_code(source, options, weights=weights)
    if source.startswith(("torchvision:", "timm:")):
        _require(options.arch is None, "--arch", f"{source} names the architecture")
        architecture = _architecture(source)
        if options.weights is None:
            raise NotImportable(_missing_weights(source))
        weights = read_weights(options.weights)
        return import_weights(architecture, weights, options, name=architecture.short_name)
    if is_hugging_face(path):
        _require(options.arch is None, "--arch", "config.json names the architecture")
        _require(options.weights is None, "--weights", "the folder has the weights")
        return import_hugging_face(path, options)
    if path.suffix.lower() == ".onnx":
        _require(options.arch is None, "--arch", "the graph is the architecture")
        _require(options.weights is None, "--weights", "the graph has its weights")
        return import_onnx(path, options)
    if _is_weights(path) and "://" not in source:
        _require(options.weights is None, "--weights", f"{path.name} has the weights")
        return _import_file(path, options)
    if (path / MANIFEST_FILE).is_file():
        raise NotImportable(
            f"{source}: expected a source, got a bundle; serve it: stingy serve DIR"
        )
    got = explain_source(source)
    expected = "a network's file or folder" if ";" in got else FORMS  # advice says more than a list
    raise NotImportable(f"{source}: expected {expected}, got {got}")


def _is_weights(path: Path) -> bool:
    """Return true for a file of weights: by its name, or by its content if its name has no end."""
    if path.suffix.lower() in WEIGHTS:
        return True
    try:
        known = path.suffix.lower() in ("", ".torchscript", ".weights")
        return known and path.is_file() and recognise(path) != "other"
    except (OSError, ValueError):  # such as a name that is too long
        return False


def _import_file(path: Path, options: ImportOptions) -> Found:
    weights = read_weights(path)
    if options.arch is None:
        folder = f"; or the folder {path.parent}" if is_hugging_face(path.parent) else ""
        raise NotImportable(
            f"{path.name}: expected --arch, because a file of weights does not name its network; "
            f"give torchvision:NAME, timm:NAME or FILE.py:FUNCTION{folder}"
        )
    if is_own_code(options.arch):
        return import_own_code(options.arch, options, weights=weights)
    return import_weights(_architecture(options.arch), weights, options, name=path.stem)


def _architecture(text: str) -> Architecture:
    package, _, name = text.partition(":")
    if package == "torchvision":
        return TorchvisionModel(name)
    if package == "timm":
        return TimmModel(name)
    raise NotImportable(
        f"--arch: expected torchvision:NAME, timm:NAME or FILE.py:FUNCTION, got {text}"
    )


def _missing_weights(source: str) -> str:
    package, _, name = source.partition(":")
    builder = (
        f"torchvision.models.{name}(weights='DEFAULT')"
        if package == "torchvision"
        else f"timm.create_model('{name}', pretrained=True)"
    )
    return (
        f"{source}: expected --weights FILE, because nothing is fetched; on a machine with a "
        f"network, write it with torch.save({builder}.state_dict(), '{name}.pth')"
    )


def _require(condition: bool, option: str, reason: str) -> None:
    if not condition:
        raise NotImportable(f"{option}: expected none, got one; {reason}")
