"""Export a PyTorch module to a program file that runs without Python: ONNX, or torch's `.pt2`."""

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
EXPORTERS = ("onnx_ir", "onnxscript", "torch")  # the names of their loggers
_exporting = threading.Lock()  # torch's exporter keeps its state in globals


class NotExportable(Exception):
    """The module cannot be written as one graph for any batch size."""


def export_program(module: nn.Module, example: Tensor) -> ExportedProgram:
    """Export a module as one graph, for any number of rows.

    Args:
        example: an input [rows, ...], whose type and other sizes the graph takes.

    Raises:
        NotExportable: if the module branches on values, fixes the batch size, or calls a function
            that no graph can express.
    """
    rows = {0: Dim("batch", min=1, max=MOST_ROWS)}
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(module.eval(), (example,), dynamic_shapes=(rows,))
    # A network is foreign code, and torch raises errors of many types if it cannot trace it.
    except Exception as error:  # noqa: BLE001
        failure = type(error).__name__
    raise NotExportable(f"expected a network that torch.export can trace, got {failure}")


def to_pt2(program: ExportedProgram) -> bytes:
    """Serialise a program in torch's own format. Load only your own, because loading unpickles."""
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file)
    return file.getvalue()


def to_onnx(program: ExportedProgram, *, image: str, outputs: Sequence[str]) -> bytes:
    """Convert a program to ONNX, with the weights inside.

    Args:
        image: the name of its one input.
        outputs: the names of its outputs.

    Raises:
        NotExportable: if an operation has no ONNX form, the weights exceed protobuf's 2 GiB, or
            onnx and onnxscript are not installed.
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
    raise NotExportable(f"expected a graph that ONNX can express, got {failure}")


def onnx_session(program: bytes, *, threads: int) -> Any:
    """Open an ONNX Runtime session on the CPU.

    It loads the program from bytes, because then no path inside the program is followed.

    Args:
        threads: the threads of one pass.

    Raises:
        ImportError: if ONNX Runtime is not installed.
        ValueError: if ONNX Runtime cannot load the program.
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
    """Translate torch's stable sort, which torch's exporter does not translate.

    TopK is stable, because ONNX requires that equal values keep their order.
    """
    import onnxscript

    op: Any = onnxscript.opset20
    size = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
    return op.TopK(self, size, axis=dim, largest=int(descending), sorted=1)


class _MutedStream:
    """A stream that drops the output of the thread that made this object."""

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
    """Drop the output of an export and the exporters' log lines. Keep the rest of other threads.

    The messages of the exporters are of no use to the operator of a server.
    """
    loggers = [logging.getLogger(name) for name in EXPORTERS]
    with _exporting, warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        # If torch cannot trace a module, it prints the whole graph.
        stack.enter_context(contextlib.redirect_stdout(_MutedStream(sys.stdout)))
        stack.enter_context(contextlib.redirect_stderr(_MutedStream(sys.stderr)))
        for logger in loggers:
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        yield
