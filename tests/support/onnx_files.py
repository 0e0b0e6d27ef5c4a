"""Small ONNX programs, as people export them from other frameworks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 8
K = 5


def program(
    *,
    layout: str = "NCHW",
    channels: int = 3,
    batch: int | str = "N",
    size: int | str = SIZE,
    dtype: int = TensorProto.FLOAT,
    outputs: Sequence[str] = ("logits",),
    inputs: Sequence[str] = ("image",),
    softmax: bool = False,
    over_batch: bool = False,
    static_reshape: bool = False,
) -> onnx.ModelProto:
    """Make a linear classifier of images, with weights that are the same at each call.

    Args:
        batch, size: lengths of the axes, or names of free ones.
        over_batch: whether it subtracts the mean of the batch.
        static_reshape: whether it fixes the batch to one image behind a free axis.
    """
    rng = np.random.default_rng(0)
    kind = np.float32 if dtype == TensorProto.FLOAT else np.float16
    weights = (rng.standard_normal((channels * SIZE * SIZE, K)) / 4).astype(kind)
    axes = [batch, channels, size, size] if layout == "NCHW" else [batch, size, size, channels]
    nodes = []
    found = inputs[0]
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [found], ["chw"], perm=[0, 3, 1, 2]))
        found = "chw"
    if static_reshape:
        nodes.append(helper.make_node("Reshape", [found, "shape"], ["flat"]))
    else:
        nodes.append(helper.make_node("Flatten", [found], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "weights"], ["rows"]))
    found = "rows"
    if over_batch:
        nodes.append(helper.make_node("ReduceMean", [found], ["mean"], axes=[0], keepdims=1))
        nodes.append(helper.make_node("Sub", [found, "mean"], ["centred"]))
        found = "centred"
    kind_of_end = "Softmax" if softmax else "Identity"
    nodes += [helper.make_node(kind_of_end, [found], [name]) for name in outputs]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info(name, dtype, axes) for name in inputs],
        [helper.make_tensor_value_info(name, dtype, [batch, K]) for name in outputs],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([1, channels * SIZE * SIZE]), "shape"),
        ],
    )
    made: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    return made


def content(**options: Any) -> bytes:
    """Return the bytes of such a program."""
    found: bytes = program(**options).SerializeToString()
    return found


def external() -> bytes:
    """Return a program whose weights are in another file."""
    model = program()
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.bin")
    found: bytes = model.SerializeToString()
    return found


def external_inside() -> bytes:
    """Return a program with a constant in another file, inside a branch."""
    value = numpy_helper.from_array(np.zeros(K, np.float32), "constant")
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="/etc/passwd")
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["found"], value=value)],
        "branch",
        [],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, [K])],
    )
    model = program()
    node = helper.make_node("If", ["condition"], ["extra"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    found: bytes = model.SerializeToString()
    return found
