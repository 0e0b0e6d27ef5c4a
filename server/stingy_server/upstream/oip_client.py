"""The client's side of the Open Inference Protocol v2: it sends one tensor and gets named tensors.

The answer is checked in full: it must have exactly the requested tensors, of their type and shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stingy_server.codec.oip import BINARY, HEADER_LENGTH
from stingy_server.codec.oip_tensors import numbers
from stingy_server.errors import JSON
from stingy_server.upstream.http_client import Reply, UpstreamError

Array = npt.NDArray[Any]

DATATYPES: Mapping[str, np.dtype[Any]] = {
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "UINT8": np.dtype("u1"),
}
KINDS: Mapping[str, str] = {"INT64": "i", "FP32": "if"}


@dataclass(frozen=True)
class Request:
    """The headers and the body of an inference request."""

    headers: dict[str, str]
    body: bytes


class _Parameters(BaseModel):
    model_config = ConfigDict(strict=True)

    binary_data_size: int | None = Field(default=None, ge=0)


class _Output(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    datatype: str
    shape: list[int]
    parameters: _Parameters | None = None
    data: Any = None


class _Response(BaseModel):
    model_config = ConfigDict(strict=True)

    outputs: list[_Output]


def encode_request(
    name: str, tensor: Array, *, datatype: str, outputs: tuple[str, ...], binary: bool
) -> Request:
    """Encode a request with one input, for these outputs and no others.

    Args:
        tensor: [batch, ...], of the type that `datatype` names.
        binary: send the tensor, and request the outputs, as bytes instead of JSON.
    """
    described: dict[str, Any] = {"name": name, "datatype": datatype, "shape": tensor.shape}
    requested: list[dict[str, Any]] = [{"name": output} for output in outputs]
    if not binary:
        described["data"] = np.ascontiguousarray(tensor).ravel()
        return Request({"Content-Type": JSON}, _json({"inputs": [described], "outputs": requested}))
    content = tensor.tobytes()
    described["parameters"] = {"binary_data_size": len(content)}
    for output in requested:
        output["parameters"] = {"binary_data": True}
    head = _json({"inputs": [described], "outputs": requested})
    return Request({"Content-Type": BINARY, HEADER_LENGTH: str(len(head))}, head + content)


def decode_reply(reply: Reply, datatypes: Mapping[str, str], *, rows: int) -> dict[str, Array]:
    """Decode the tensors of an answer by name, each [rows, n].

    Args:
        datatypes: the name and type, INT64 or FP32, of each output that the answer must have.
        rows: the rows of each output.

    Raises:
        UpstreamError: if the answer has other outputs, types, shapes or sizes.
    """
    head = _head(reply)
    try:
        response = _Response.model_validate(orjson.loads(reply.body[:head]))
    except (orjson.JSONDecodeError, ValidationError):
        raise UpstreamError("expected an inference response, got another document") from None
    names = [output.name for output in response.outputs]
    if sorted(names) != sorted(datatypes):
        raise UpstreamError(f"expected the outputs {', '.join(datatypes)}, got others")
    tensors: dict[str, Array] = {}
    start = head
    for output in response.outputs:
        datatype = datatypes[output.name]
        shape = output.shape
        if output.datatype != datatype or len(shape) != 2 or shape[0] != rows or shape[1] < 1:
            raise UpstreamError(f"expected {output.name} as {datatype} [{rows}, n], got another")
        size = None if output.parameters is None else output.parameters.binary_data_size
        stop = start + (size or 0)
        values = (
            _from_json(output.data, rows * shape[1], datatype)
            if size is None
            else _from_bytes(reply.body[start:stop], datatype, size)
        )
        if values.size != rows * shape[1]:
            raise UpstreamError(f"expected {output.name} in its declared shape, got another size")
        tensors[output.name] = values.reshape(rows, shape[1])
        start = stop
    if start != len(reply.body):
        raise UpstreamError("expected the declared bytes, got another number")
    return tensors


def _head(reply: Reply) -> int:
    """Return the length of the JSON at the start of an answer, in bytes.

    Raises UpstreamError if the header names no length within the answer.
    """
    text = reply.headers.get(HEADER_LENGTH)
    if text is None:
        return len(reply.body)
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) <= len(reply.body)):
        raise UpstreamError("expected a length of the JSON within the answer, got another")
    return int(text)


def _from_bytes(content: bytes, datatype: str, size: int) -> Array:
    dtype = DATATYPES[datatype]
    if len(content) != size or size % dtype.itemsize:
        raise UpstreamError("expected as many bytes as declared, got fewer")
    return np.frombuffer(content, dtype)


def _from_json(data: Any, count: int, datatype: str) -> Array:
    try:
        values = numbers(data, count)
    except ValueError:
        raise UpstreamError("expected numbers, got something else") from None
    if values.dtype.kind not in KINDS[datatype]:
        raise UpstreamError("expected numbers, got something else")
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is refused
        return values.astype(DATATYPES[datatype])


def _json(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
