"""Files and folders that are no source: what they are, by name and content, and what to do."""

import re
from pathlib import Path
from typing import Literal

Content = Literal["torch", "safetensors", "pointer", "other"]

POINTER = b"version https://git-lfs"
CONFIG = "config.json"
NETWORKS = (".bin", ".ckpt", ".onnx", ".pickle", ".pkl", ".pt", ".pth", ".safetensors")
EXPORT = "export the network that it was made from to ONNX, and pack that"
_TF2ONNX = "write it as ONNX with python -m tf2onnx.convert --{} FILE --output model.onnx"
_KERAS = "a Keras model", "write it as ONNX with model.export('model.onnx', format='onnx')"
_ARCHIVE = "an archive", "unpack it, and give what is in it"
_TENSORRT = "a TensorRT engine", EXPORT
_CORE_ML = "a Core ML model", EXPORT
_PADDLE = "a Paddle model", "write it as ONNX with paddle2onnx"
_ARRAYS = "arrays of NumPy", "load them into the network, and save its state_dict"
_SCIKIT = (
    "a pickle of Python objects, which is never loaded",
    "write the model as ONNX with an image as its input, and pack that",
)
# By the end of a name: what it is, and what to do.
FOREIGN: dict[str, tuple[str, str]] = {
    ".caffemodel": ("a Caffe model", EXPORT),
    ".engine": _TENSORRT,
    ".gguf": ("a GGUF file", EXPORT),
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".joblib": _SCIKIT,
    ".keras": _KERAS,
    ".mar": ("an archive of TorchServe", "give the file of weights that is in it"),
    ".mlmodel": _CORE_ML,
    ".mlpackage": _CORE_ML,
    ".msgpack": ("a Flax model", EXPORT),
    ".npy": _ARRAYS,
    ".npz": _ARRAYS,
    ".ort": ("a program of ONNX Runtime", "pack the .onnx file that it was made from"),
    ".params": ("an MXNet model", EXPORT),
    ".pb": ("a TensorFlow graph", _TF2ONNX.format("graphdef")),
    ".pdmodel": _PADDLE,
    ".pdparams": _PADDLE,
    ".plan": _TENSORRT,
    ".sav": _SCIKIT,
    ".tar.gz": _ARCHIVE,
    ".tflite": ("a TensorFlow Lite model", _TF2ONNX.format("tflite")),
    ".tgz": _ARCHIVE,
    ".xml": ("an OpenVINO model", EXPORT),
    ".zip": _ARCHIVE,
}
_HUB_NAME = re.compile(r"(?:hf:)?([\w.-]+/[\w.-]+)")


def recognise(path: Path) -> Content:
    """Recognise a file of weights by its first bytes.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(POINTER):
        return "pointer"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "torch"
    length = int.from_bytes(head[:8], "little")
    is_header = head[8:9] == b"{" and length <= path.stat().st_size - 8
    return "safetensors" if is_header else "other"


def describe_pointer(name: str) -> str:
    """Return the sentence for a file that Git LFS has not fetched."""
    return (
        f"{name}: expected a model's file, got a pointer of Git LFS to it; fetch it with "
        "git lfs pull"
    )


def explain_source(source: str) -> str:
    """Return what a source of no known form is, and what to do, as the end of a sentence."""
    path = Path(source)
    if "://" in source:
        return "a URL; nothing is fetched, so download the file, and give its name"
    try:
        if path.is_dir():
            return _explain_folder(path)
        if path.is_file():
            return _explain_file(path)
    except (OSError, ValueError):  # such as a name that is too long
        pass
    hub = _HUB_NAME.fullmatch(source)
    if hub is None:
        return "nothing of this name"
    return (
        "nothing of this name; nothing is fetched, so download a model of Hugging Face with "
        f"hf download {hub[1]} --local-dir DIR, and pack DIR"
    )


def _explain_file(path: Path) -> str:
    name = path.name.lower()
    if name == "saved_model.pb":
        return f"a part of a TensorFlow SavedModel; give its folder: {path.parent}"
    if (path.parent / CONFIG).is_file() and name in (CONFIG, "model.safetensors"):
        return f"a part of a Hugging Face folder; give the folder: {path.parent}"
    if name.endswith(".py"):
        return f"a Python file; name its function: {path}:FUNCTION"
    for ending, (kind, fix) in FOREIGN.items():
        if name.endswith(ending):
            return f"{kind}; {fix.replace('FILE', path.name)}"
    return "another file; if it is a network of another framework, write it as ONNX, and pack that"


def _explain_folder(path: Path) -> str:
    if (path / "saved_model.pb").is_file():
        return "a TensorFlow SavedModel; " + _TF2ONNX.format("saved-model").replace(
            "FILE", path.name
        )
    if path.suffix.lower() in FOREIGN:
        kind, fix = FOREIGN[path.suffix.lower()]
        return f"{kind}; {fix}"
    inside = sorted(file for file in path.iterdir() if file.suffix.lower() in NETWORKS)
    if inside:
        return f"a folder without {CONFIG}; give the file in it: {inside[0]}"
    return f"a folder without {CONFIG}"
