"""From a PyTorch module to a program file that needs no Python to run: ONNX, or torch's `.pt2`."""

import contextlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

MOST_ROWS = 2**16  # of a batch, in an exported program
EXPORTERS = ("onnx_ir", "onnxscript", "torch")  # the names they log under
_exporting = threading.Lock()  # torch's exporter keeps what it does in globals


class NotExportable(Exception):
    """The module cannot be written down as one graph for any batch."""


def exported(module: nn.Module, example: Tensor) -> ExportedProgram:
    """The module as one graph, for any number of rows of the example's kind.

    Raises:
        NotExportable: it branches on values, fixes the batch, or calls what no graph has.
    """
    rows = {0: Dim("batch", min=1, max=MOST_ROWS)}
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(module.eval(), (example,), dynamic_shapes=(rows,))
    # A network is anybody's code, and torch raises what it likes over what it cannot trace.
    except Exception as error:  # noqa: BLE001
        failure = type(error).__name__
    raise NotExportable(f"expected a network that torch.export can trace, got {failure}")


def as_pt2(program: ExportedProgram) -> bytes:
    """The program in torch's own format. Loading one unpickles: load your own alone."""
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file)
    return file.getvalue()


def as_onnx(program: ExportedProgram, *, image: str, outputs: Sequence[str]) -> bytes:
    """The program as ONNX, weights within.

    Args:
        image: the name of its one input.
        outputs: the names of what it returns.

    Raises:
        NotExportable: an operation has no ONNX form, or the weights exceed protobuf's 2 GiB.
    """
    try:
        with _quiet():
            converted = torch.onnx.export(
                program,
                input_names=[image],
                output_names=list(outputs),
                dynamo=True,
                verbose=False,
                custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
            )
            content: bytes = converted.model_proto.SerializeToString()  # type: ignore[union-attr]
            return content
    except ImportError:
        raise NotExportable("expected onnx and onnxscript: pip install 'stingy[onnx]'") from None
    except Exception as error:  # noqa: BLE001  as above
        failure = type(error).__name__
    raise NotExportable(f"expected a graph that ONNX can hold, got {failure}")


def onnx_session(program: bytes, *, threads: int) -> Any:
    """An ONNX Runtime session on the CPU, from bytes: no path is followed out of them.

    Raises:
        ImportError: ONNX Runtime is not installed.
        ValueError: it cannot load the program.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  its errors have no common class
        failure = type(error).__name__
    raise ValueError(f"expected a program that ONNX Runtime can load, got {failure}")


def _stable_sort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """What torch's exporter lacks. ONNX demands of TopK that equals keep their order."""
    import onnxscript

    op: Any = onnxscript.opset20
    size = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
    return op.TopK(self, size, axis=dim, largest=int(descending), sorted=1)


class _Unheard:
    """A stream without what the thread that made this writes to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporting says much that is of no use to who serves a model; others go on speaking."""
    loggers = [logging.getLogger(name) for name in EXPORTERS]
    with _exporting, warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        # Over a module that it cannot trace, torch prints the whole graph.
        stack.enter_context(contextlib.redirect_stdout(_Unheard(sys.stdout)))
        stack.enter_context(contextlib.redirect_stderr(_Unheard(sys.stderr)))
        for logger in loggers:
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        yield
