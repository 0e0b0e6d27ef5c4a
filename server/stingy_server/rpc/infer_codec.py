"""The codec of infer requests and answers in protobuf. REST's rules apply to the same document."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from stingy_protection import ScoreForm, SparseLogits
from stingy_server.codec.oip import InferHead, read_document
from stingy_server.codec.oip_answers import encode_classes, output_values
from stingy_server.errors import BAD_REQUEST, ServiceError
from stingy_server.rpc.messages import MESSAGES
from stingy_server.rpc.wire import InferMessage

# The field of typed contents that has the elements of a datatype. Others travel in raw form alone.
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def parse_infer(message: InferMessage, *, form: ScoreForm, max_images: int) -> InferHead:
    """Parse the head of an infer request. No pixel is read.

    Args:
        form: the policy's score form under the caller's tier.
        max_images: the limit on images in one request.

    Raises:
        ServiceError: as from `oip.parse_head`.
    """
    request = MESSAGES["ModelInferRequest"]()
    try:
        request.ParseFromString(message.head)
    except DecodeError:
        raise ServiceError(BAD_REQUEST) from None
    if len(request.inputs) != 1 or len(message.raw) > 1:
        raise ServiceError(BAD_REQUEST)
    (tensor,) = request.inputs
    described: dict[str, Any] = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
        "parameters": _parameters(tensor.parameters),
    }
    if tensor.contents.ListFields():
        field = CONTENTS.get(tensor.datatype)
        described["data"] = [] if field is None else list(getattr(tensor.contents, field))
    if message.raw:
        described["parameters"]["binary_data_size"] = len(message.raw[0])
    document = {
        "id": request.id or None,
        "parameters": {**_parameters(request.parameters), "binary_data_output": True},
        "inputs": [described],
        "outputs": [
            {
                "name": output.name,
                "parameters": {**_parameters(output.parameters), "binary_data": True},
            }
            for output in request.outputs
        ],
    }
    # Raw tensors begin at the first byte of their own part of the message.
    length = 0 if message.raw else len(message.head)
    return read_document(document, length, form=form, max_images=max_images)


def encode_infer(
    request: InferHead,
    answer: SparseLogits,
    *,
    model: str,
    version: str,
    labels: Sequence[str],
    raw: bool,
) -> bytes:
    """Encode an answer in the outputs that the client requested.

    Args:
        labels: the labels of all classes, for outputs that are sent as classes.
        raw: whether the tensors are raw bytes, as those of the request were.
    """
    response = MESSAGES["ModelInferResponse"](
        model_name=model, model_version=version, id=request.id or ""
    )
    response.parameters["scores"].string_param = answer.form.value
    most_classes = dict(request.classified)
    for name, _ in request.outputs:
        elements: list[Any]
        if name in most_classes:
            described, content = encode_classes(
                name, answer, labels, most=most_classes[name], binary=raw
            )
            datatype, shape = described["datatype"], described["shape"]
            elements = [] if raw else [text.encode() for text in described["data"]]
        else:
            values = output_values(name, answer)
            datatype, shape = "INT64" if values.dtype.kind == "i" else "FP32", values.shape
            content, elements = (values.tobytes(), []) if raw else (b"", values.ravel().tolist())
        output = response.outputs.add(name=name, datatype=datatype, shape=shape)
        if raw:
            response.raw_output_contents.append(content)
        else:
            getattr(output.contents, CONTENTS[datatype]).extend(elements)
    return bytes(response.SerializeToString())


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a message as JSON has them."""
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        field = parameter.WhichOneof("parameter_choice")
        values[name] = None if field is None else getattr(parameter, field)
    return values
