"""ONNX programs of bundles: read without following a path in them, and run by ONNX Runtime."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stingy_protection import BundleError, BundleManifest
from stingy_protection.bundles.outputs import LOGITS
from stingy_server.inference.forward import Network

Layout = Literal["NCHW", "NHWC"]
TYPES = {1: "float32", 10: "float16"}  # by onnx.TensorProto.DataType
ROWS = (0, 1, 10, 11, 16)  # of an output: unknown, float32, float16, float64, bfloat16
INSTALL = "expected ONNX and ONNX Runtime: pip install 'stingy[onnx]'"
CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True, eq=False)
class OnnxProgram:
    """A program with its weights inside, one image input and one output of logits.

    Attributes:
        content: the bytes of the program.
        input: the name of the input.
        layout: the order of the input's axes.
        dtype: "float32" or "float16", of the input.
        batch: the only batch size that the program takes; None for any.
        output: the name of the output.
    """

    content: bytes
    input: str
    layout: Layout
    dtype: str
    batch: int | None
    output: str

    @classmethod
    def read(cls, content: bytes, manifest: BundleManifest) -> "OnnxProgram":
        """Read the description of a program, without running it.

        Raises:
            BundleError: if it is damaged, has parts in other files, has an input that is no image
                of the manifest's size, or has several outputs and none named logits.
        """
        graph = _parse_graph(content)
        name, dtype, shape = _find_input(graph)
        image = manifest.preprocessing
        layout = choose_layout(shape, size=image.size, channels=image.channels)
        return cls(
            content=content,
            input=name,
            layout=layout,
            dtype=dtype,
            batch=shape[0],
            output=_find_output(graph),
        )

    def open(self, *, device: torch.device, threads: int) -> Network:
        """Open a session and return the program as a function from inputs to logits.

        Args:
            device: "cuda" needs the ONNX Runtime for GPUs.
            threads: the threads of one pass on the CPU.

        Raises:
            BundleError: if ONNX Runtime cannot load the program, or has no support for the device.
        """
        session = _open_session(self.content, device=device, threads=threads)
        dtype = getattr(torch, self.dtype)

        def run(inputs: Tensor) -> Tensor:
            ordered = inputs.permute(0, 2, 3, 1) if self.layout == "NHWC" else inputs
            ordered = ordered.to(dtype).contiguous()
            if ordered.device.type == "cuda":
                return self._run_on_cuda(session, ordered)
            (logits,) = session.run([self.output], {self.input: ordered.numpy()})
            return torch.from_numpy(logits)

        return run

    def find_damage(self) -> list[str]:
        """List the weights of the program that are NaN or infinite, by name."""
        from onnx import numpy_helper

        return [
            tensor.name or "a constant"
            for tensor in _find_tensors(_parse_graph(self.content))
            if tensor.data_type in TYPES and not np.isfinite(numpy_helper.to_array(tensor)).all()
        ]

    def _run_on_cuda(self, session: Any, inputs: Tensor) -> Tensor:
        torch.cuda.current_stream(inputs.device).synchronize()  # ONNX Runtime has its own stream
        binding = session.io_binding()
        binding.bind_input(
            self.input,
            "cuda",
            inputs.device.index or 0,
            np.dtype(self.dtype).type,
            tuple(inputs.shape),
            inputs.data_ptr(),
        )
        binding.bind_output(self.output, "cpu")
        session.run_with_iobinding(binding)
        (logits,) = binding.copy_outputs_to_cpu()
        return torch.from_numpy(logits).to(inputs.device)


def onnx_on_cuda() -> bool:
    """Return true if torch has a CUDA device and ONNX Runtime supports it."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return torch.cuda.is_available() and CUDA in onnxruntime.get_available_providers()


def choose_layout(shape: Sequence[int | None], *, size: tuple[int, int], channels: int) -> Layout:
    """Return the order of an image input's axes.

    Args:
        shape: the input's shape; None for an axis of any length.
        size: (height, width) of the images.
        channels: their channels.

    Raises:
        BundleError: if such images do not fit into the shape in any order.
    """
    layouts: dict[Layout, tuple[int, ...]] = {
        "NCHW": (channels, *size),
        "NHWC": (*size, channels),
    }
    for layout, expected in layouts.items():
        if len(shape) == 4 and all(
            found in (None, length) for found, length in zip(shape[1:], expected, strict=True)
        ):
            return layout
    described = ", ".join("any" if length is None else str(length) for length in shape)
    wanted = " or ".join(str(["any", *each]).replace("'", "") for each in layouts.values())
    raise BundleError((f"expected an ONNX image input of the shape {wanted}, got [{described}]",))


def _parse_graph(content: bytes) -> Any:
    try:
        import onnx
    except ImportError:
        raise BundleError((INSTALL,)) from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception:  # noqa: BLE001  protobuf's errors have no common class
        raise BundleError(("expected an ONNX program, got other or damaged content",)) from None
    graphs = [model.graph, *model.functions]
    if not model.graph.node:
        raise BundleError(("expected an ONNX program with operations, got none",))
    for graph in graphs:
        for tensor in _find_tensors(graph):
            if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
                raise BundleError(
                    (
                        "expected an ONNX program with its weights inside, got one with external "
                        "data; save it as one file",
                    )
                )
        if any(node.op_type == "EPContext" for node in graph.node):
            raise BundleError(("expected a portable ONNX program, got a compiled one",))
    return model.graph


def _find_tensors(graph: Any) -> Iterator[Any]:
    """Yield all tensors of a graph or function, those of the graphs within it too."""
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                yield from _find_tensors(inner)


def _find_input(graph: Any) -> tuple[str, str, tuple[int | None, ...]]:
    """Return the name, the type and the shape of the one input that is no weight."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name[:64] for value in inputs[:5])
        raise BundleError((f"expected an ONNX program with one input, got {len(inputs)}: {names}",))
    (value,) = inputs
    tensor = value.type.tensor_type
    if tensor.elem_type not in TYPES:
        got = describe_type(value)
        raise BundleError((f"expected an ONNX input of float32 or float16, got {got}",))
    shape = tuple(
        axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None
        for axis in tensor.shape.dim
    )
    return value.name, TYPES[tensor.elem_type], shape if tensor.HasField("shape") else (None,) * 4


def describe_type(value: Any) -> str:
    """Name the type of a graph's input or output, such as "int64" or "a sequence of maps"."""
    import onnx

    kind = value.type.WhichOneof("value")
    if kind == "tensor_type":
        name = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        return {"FLOAT": "float32", "DOUBLE": "float64"}.get(name, str(name).lower())
    inner = value.type.sequence_type.elem_type.WhichOneof("value") if kind else None
    return "a sequence of maps" if inner == "map_type" else f"a {str(kind).partition('_')[0]}"


def find_output_fault(value: Any) -> str | None:
    """Return the sentence for an output that is no tensor of floating-point rows, or None."""
    if value.type.WhichOneof("value") in ("tensor_type", None):
        if value.type.tensor_type.elem_type in ROWS:
            return None
        fix = "export the network without the step behind its logits, such as an argmax"
    else:
        fix = "export the network without it, with skl2onnx by options={'zipmap': False}"
    return f"expected an output of floating-point rows, got {describe_type(value)}; {fix}"


def _find_output(graph: Any) -> str:
    names: list[str] = [value.name for value in graph.output]
    if len(names) == 1 or LOGITS in names:
        (output,) = [value for value in graph.output if len(names) == 1 or value.name == LOGITS]
        if (fault := find_output_fault(output)) is not None:
            raise BundleError((fault,))
        return str(output.name)
    listed = ", ".join(name[:64] for name in names[:5])
    raise BundleError(
        (f"expected an ONNX program with one output, or one named logits, got {listed}",)
    )


def _open_session(content: bytes, *, device: torch.device, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise BundleError((INSTALL,)) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    on_cuda = device.type == "cuda"
    providers = [(CUDA, {"device_id": device.index or 0})] if on_cuda else []
    try:
        # From bytes, because then no path inside the program is followed.
        session = onnxruntime.InferenceSession(
            content, options, providers=[*providers, "CPUExecutionProvider"]
        )
    except Exception as error:  # noqa: BLE001  its errors have no common class
        text = str(error).partition("\n")[0].rpartition(") ")[2][:200]  # without C++ names
        raise BundleError(
            (f"expected a program that ONNX Runtime can load, got {type(error).__name__}: {text}",)
        ) from None
    if on_cuda and session.get_providers()[0] != CUDA:
        raise BundleError(
            ("expected the ONNX Runtime for GPUs: pip install onnxruntime-gpu, or device = cpu",)
        )
    return session
