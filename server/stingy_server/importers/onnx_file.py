"""ONNX files: the image input, its layout and size, and the one output, read from the graph."""

from pathlib import Path
from typing import Any

from stingy_protection.bundles.manifest import Outputs
from stingy_protection.bundles.outputs import LOGITS
from stingy_protection.bundles.preprocessing import Channels
from stingy_protection.files import read_regular_file
from stingy_server.importers.found import Found, ImportOptions, NotImportable
from stingy_server.importers.kinds import POINTER, describe_pointer
from stingy_server.importers.labels import require_labels, require_rows
from stingy_server.importers.preprocessing import plain_preprocessing
from stingy_server.inference.onnx_program import describe_type, find_output_fault

MAX_PROGRAM_BYTES = 2**31 - 1  # protobuf's limit
IMAGE_CHANNELS = (1, 3)


def import_onnx(path: Path, options: ImportOptions) -> Found:
    """Read an ONNX classifier. Its weights stay in the program, which is packed as it is.

    Weights that the program keeps in files beside it are put into it.

    Raises:
        NotImportable: if the file is no ONNX program, its input is no image of a known layout, its
            batch size is fixed, or it has several outputs and none named logits.
    """
    onnx = _onnx()
    model, program = _read(onnx, path)
    name = path.name
    image = _only(name, "input", _inputs(model))
    named = [each for each in model.graph.output if each.name == LOGITS]
    output = _only(name, "output", named or list(model.graph.output))
    if image.type.tensor_type.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        raise NotImportable(
            f"{name}: expected an input of float32 or float16, got {describe_type(image)}; export "
            "the network in float32, without preprocessing in front of it"
        )
    if (fault := find_output_fault(output)) is not None:
        raise NotImportable(f"{name}: {fault}")
    shape = _shape(image)
    layout, channels, size = _layout(name, image.name, shape)
    first = image.type.tensor_type.shape.dim[0]
    if shape[0] is not None or (first.HasField("dim_value") and first.dim_value == 0):
        raise NotImportable(
            f"{name}: expected a batch axis of any size, got a static one of {shape[0] or 0}; "
            "export it with a dynamic batch axis, for torch.onnx.export "
            f"dynamic_axes={{'{image.name}': {{0: 'batch'}}}}"
        )
    size = _agree(name, "size", size, options.size)
    channels = _agree(name, "channels", channels, options.channels)
    preprocessing, notes = plain_preprocessing(options, size=size, channels=channels)
    found = _count_classes(name, output)
    if found is not None:
        require_rows(found)
    num_classes = found or len(options.labels or ())
    if not num_classes:
        raise NotImportable(
            f"{name}: expected labels, because the graph leaves the number of classes open, got "
            "none; give --labels"
        )
    end = _last_operation(model, output.name)
    if end == "Sigmoid":
        raise NotImportable(
            f"{name}: expected logits or a softmax, got a graph that ends in a sigmoid, which "
            "answers each class on its own; export the network without it"
        )
    outputs: Outputs = options.outputs or ("probabilities" if end == "Softmax" else "logits")
    if options.outputs is None and outputs == "probabilities":
        notes += ("the graph ends in a softmax, so its rows are probabilities",)
    made_by = f"{model.producer_name} {model.producer_version}".strip()
    return Found(
        name=path.stem,
        title=f"{name}, ONNX, input {image.name} in the order {layout}, output {output.name}",
        classes=require_labels(options.labels, num_classes=num_classes),
        preprocessing=preprocessing,
        outputs=outputs,
        model=program,
        source=f"ONNX file {name}" + (f" by {made_by[:200]}" if made_by else ""),
        notes=notes,
    )


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.external_data_helper
        import onnx.helper
    except ImportError:
        raise NotImportable("expected the package onnx: pip install 'stingy[onnx]'") from None
    return onnx


def _read(onnx: Any, path: Path) -> tuple[Any, bytes]:
    """Read a program with the weights that it keeps in files beside it, and its bytes with them."""
    if not path.is_file():
        raise NotImportable(f"{path}: expected an ONNX file, got none")
    content = b""
    try:
        content = read_regular_file(path, max_bytes=MAX_PROGRAM_BYTES)
        model = onnx.load_model_from_string(content)
        missing = [file for file in _files(onnx, model) if not (path.parent / file).is_file()]
        if not missing and _files(onnx, model):
            # It refuses names that lead out of the folder.
            onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
            content = model.SerializeToString()
        if not missing:
            onnx.checker.check_model(model)
    except Exception as error:  # noqa: BLE001  onnx, protobuf and the checker raise many types
        if content.startswith(POINTER):
            raise NotImportable(describe_pointer(path.name)) from None
        text = str(error).strip().partition("\n")[0][:200]
        raise NotImportable(
            f"{path.name}: expected an ONNX program, got another file or a faulty one "
            f"({type(error).__name__}{': ' if text else ''}{text})"
        ) from None
    if missing:
        raise NotImportable(
            f"{path.name}: expected its weights in {Path(missing[0]).name} beside it, got none; "
            "copy that file into the same folder"
        )
    return model, content


def _files(onnx: Any, model: Any) -> set[str]:
    """Return the names of the files with weights that a program names."""
    return {
        entry.value
        for tensor in model.graph.initializer
        if onnx.external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _inputs(model: Any) -> list[Any]:
    """List the inputs that a caller gives. Old programs list their weights as inputs, too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [each for each in model.graph.input if each.name not in weights]


def _only(name: str, what: str, values: list[Any]) -> Any:
    if len(values) == 1:
        return values[0]
    names = ", ".join(each.name for each in values[:4]) or "none"
    fix = (
        "; keep one with onnx.utils.extract_model(FILE, 'one.onnx', [INPUT], [OUTPUT])"
        if len(values) > 1
        else ""
    )
    raise NotImportable(f"{name}: expected one {what}, got {len(values)}: {names}{fix}")


def _shape(value: Any) -> list[int | None]:
    """Return the axes of a tensor. An axis of any size is None."""
    axes = value.type.tensor_type.shape.dim
    # Some exporters write 0 or -1 for an axis of any size.
    return [axis.dim_value if axis.dim_value > 0 else None for axis in axes]


def _layout(
    name: str, image: str, shape: list[int | None]
) -> tuple[str, Channels | None, tuple[int, int] | None]:
    """Return the order of an input's axes, its channels and its (height, width) if fixed."""
    first, last = ([shape[1] in IMAGE_CHANNELS, shape[3] in IMAGE_CHANNELS] if len(shape) == 4
                   else [False, False])  # fmt: skip
    if first == last:
        axes = ", ".join("any" if axis is None else str(axis) for axis in shape)
        raise NotImportable(
            f"{name}: expected an image input [batch, channels, height, width] or [batch, height, "
            f"width, channels] with 1 or 3 channels, got {image} of [{axes}]"
        )
    layout = "NCHW" if first else "NHWC"
    channels: Any = shape[1] if first else shape[3]
    height, width = shape[2:4] if first else shape[1:3]
    return layout, channels, None if height is None or width is None else (height, width)


def _agree(name: str, what: str, found: Any, given: Any) -> Any:
    if found is not None and given is not None and found != given:
        raise NotImportable(f"{name}: expected --{what} {_text(found)}, got {_text(given)}")
    return found or given


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _count_classes(name: str, output: Any) -> int | None:
    """Return the number of classes of an output; None if the graph leaves it open."""
    if not output.type.tensor_type.HasField("shape"):
        return None
    shape = _shape(output)
    if len(shape) != 2:
        axes = ", ".join("any" if axis is None else str(axis) for axis in shape)
        raise NotImportable(
            f"{name}: expected an output [batch, classes], got {output.name} of [{axes}]; "
            "flatten it where you export the network"
        )
    return shape[1]


def _last_operation(model: Any, output: str) -> str:
    """Name the operation that makes the output, seen through nodes that keep its values."""
    makers = {name: node for node in model.graph.node for name in node.output}
    while output in makers and makers[output].op_type in ("Cast", "Identity"):
        output = makers[output].input[0]
    return str(makers[output].op_type) if output in makers else ""
