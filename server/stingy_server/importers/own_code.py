"""A network of the person's own Python file. The file runs here, and only here.

A bundle has no code. So the network is exported to ONNX, and the program is what is packed.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stingy_protection import LogitsRejected
from stingy_protection.bundles.outputs import LogitsOf, unwrap_logits
from stingy_server.importers.found import Found, ImportOptions, NotImportable
from stingy_server.importers.labels import require_labels, require_rows
from stingy_server.importers.preprocessing import plain_preprocessing
from stingy_server.importers.state_file import WeightsFound, fit_prefix, load_weights
from stingy_server.inference.export import NotExportable, export_program, onnx_session, to_onnx
from stingy_server.models.trial import RANDOM

TRIALS = 8  # random images on which a network and its program are compared


def is_own_code(text: str) -> bool:
    """Return true for FILE.py:FUNCTION."""
    file, colon, function = text.rpartition(":")
    return bool(colon) and file.endswith(".py") and function.isidentifier()


def import_own_code(
    text: str, options: ImportOptions, *, weights: WeightsFound | None = None
) -> Found:
    """Build a network with FILE.py:FUNCTION, load its weights and export it to ONNX.

    Args:
        text: FILE.py:FUNCTION.
        weights: tensors to load. Without them, the function must return a trained network.

    Raises:
        NotImportable: if the file cannot run, the weights do not fit, or the network has no form in
            ONNX.
    """
    file = text.rpartition(":")[0]
    module = Path(file).stem
    if module in sys.modules or module in sys.stdlib_module_names:
        raise NotImportable(
            f"{file}: expected a file that hides no other module, got one of the name {module}; "
            "rename it"
        )
    try:
        return _import(text, options, weights=weights)
    finally:
        sys.modules.pop(module, None)


def _import(text: str, options: ImportOptions, *, weights: WeightsFound | None) -> Found:
    file, _, function = text.rpartition(":")
    network = _build(Path(file), function)
    notes: tuple[str, ...] = ()
    if weights is not None:
        weights = fit_prefix(weights, network.state_dict())
        load_weights(network, weights, arch=text)
        notes = weights.notes
    else:
        notes = ("no --weights were given, so the function's own weights are packed",)
    preprocessing, assumed = plain_preprocessing(options, size=None, channels=None)
    network.eval().requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, preprocessing.channels, *preprocessing.size, generator=random)
    network, num_classes = _count_classes(text, network, images)
    return Found(
        name=Path(file if weights is None else weights.file).stem,
        title=text + ("" if weights is None else f" with the weights of {weights.file}"),
        classes=require_labels(options.labels, num_classes=num_classes),
        preprocessing=preprocessing,
        outputs=options.outputs or "logits",
        model=_export(text, network, images),
        source=f"{Path(file).name}:{function}, exported by torch {torch.__version__}",
        notes=(*notes, *assumed, "exported to ONNX, because a bundle has no code"),
    )


def _build(file: Path, function: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise NotImportable(f"{file}: expected a Python file, got none")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))  # as if the file were run
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
        build: Any = getattr(module, function, None)
        if isinstance(build, nn.Module) or not callable(build):
            got = "none" if build is None else f"a {type(build).__name__}"
            raise NotImportable(
                f"{file.name}: expected a function {function} that returns the network, got {got}"
            )
        network = build()
    except NotImportable:
        raise
    # The person's code may raise anything, and may end the process.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        raise NotImportable(
            f"{file.name}:{function}: expected a network, got {type(error).__name__}: {error}"
        ) from None
    finally:
        sys.path.remove(str(file.parent.resolve()))
    if not isinstance(network, nn.Module):
        got = type(network).__name__
        raise NotImportable(f"{file.name}:{function}: expected a torch.nn.Module, got {got}")
    return network


def _count_classes(text: str, network: nn.Module, images: Tensor) -> tuple[nn.Module, int]:
    """Return the network, so that it returns rows alone, and its number of classes."""
    size = " x ".join(map(str, images.shape[2:]))
    try:
        with torch.inference_mode():
            # A network may write into its input.
            output, again = network(images.clone()), network(images.clone())
    except Exception as error:  # noqa: BLE001  the person's code may raise anything
        raise NotImportable(
            f"{text}: expected a network for float32 images of {_channels(images)} and {size} "
            f"pixels, got {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}; see "
            "--channels and --size"
        ) from None
    try:
        rows, others = unwrap_logits(output), unwrap_logits(again)
    except LogitsRejected as error:
        raise NotImportable(f"{text}: {error}") from None
    if rows.dim() != 2 or len(rows) != len(images) or not rows.is_floating_point():
        raise NotImportable(
            f"{text}: expected rows of logits [{len(images)}, classes] of {len(images)} images, "
            f"got {list(rows.shape)} {str(rows.dtype).removeprefix('torch.')}"
        )
    require_rows(rows.shape[1])
    if not torch.allclose(rows, others, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise NotImportable(f"{text}: {RANDOM}")
    if not isinstance(output, Tensor):
        network = LogitsOf(network, outputs="logits").eval()
    return network, int(rows.shape[1])


def _channels(images: Tensor) -> str:
    return "1 channel" if images.shape[1] == 1 else f"{images.shape[1]} channels"


def _export(text: str, network: nn.Module, images: Tensor) -> bytes:
    file, _, function = text.rpartition(":")
    try:
        program = to_onnx(export_program(network, images), image="input", outputs=("logits",))
        _compare(network, program, torch.rand(TRIALS, *images.shape[1:]))
        return program
    except NotExportable as error:
        module = Path(file).stem
        raise NotImportable(
            f"{text}: {error}; without an ONNX form, install the module {module} on the server, "
            f"annotate {function} with -> nn.Module, list {module} in trusted_factories, and write "
            "the bundle with stingy_protection.write_bundle"
        ) from None


@torch.inference_mode()
def _compare(network: nn.Module, program: bytes, images: Tensor) -> None:
    """Compare the rows of a network with those of its program.

    Raises:
        NotExportable: if they differ by more than rounding, or the program cannot run.
    """
    try:
        (found,) = onnx_session(program, threads=1).run(None, {"input": images.numpy()})
    except Exception as error:  # noqa: BLE001  ONNX Runtime's errors have no common class
        raise NotExportable(f"expected a program that runs, got {type(error).__name__}") from None
    expected = network(images)
    if not torch.allclose(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise NotExportable("expected a program with the network's rows, got other rows")
