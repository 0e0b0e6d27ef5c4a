"""The Open Inference Protocol v2 codec: JSON and the binary tensor extension. It has no state.

A request has exactly one input, `image`. The client may choose the form of the output, never the
amount of information in it.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from stingy_protection import ScoreForm, SparseLogits
from stingy_server.codec.images import Pixels
from stingy_server.errors import BAD_REQUEST, BAD_TENSOR, JSON, TOO_LARGE, ServiceError

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"
# Parsing JSON blocks all requests of the process, so larger requests must be binary. A list costs
# several times as much as a number. The limit is the number of lists in a black picture, written
# "[[0,0,0],...],", with rows of five pixels or more.
MAX_JSON_BYTES = 2 * 2**20
MAX_JSON_LISTS = MAX_JSON_BYTES // 7


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)


class _TensorParameters(_Message):
    binary_data_size: int | None = Field(default=None, ge=0, le=2**40)


class _Input(_Message):
    name: Literal["image"]
    datatype: Literal["UINT8", "FP32", "BYTES"]
    shape: list[int] = Field(min_length=1, max_length=4)
    parameters: _TensorParameters = _TensorParameters()
    data: Any = None


class _OutputParameters(_Message):
    binary_data: bool | None = None


class _Output(_Message):
    name: Literal["indices", "scores", "logits"]
    parameters: _OutputParameters = _OutputParameters()


class _RequestParameters(_Message):
    binary_data_output: bool = False


class _Request(_Message):
    id: str | None = Field(default=None, max_length=128)
    inputs: list[_Input] = Field(min_length=1, max_length=1)
    outputs: list[_Output] = Field(default=[], max_length=3)
    parameters: _RequestParameters = _RequestParameters()


@dataclass(frozen=True)
class InferRequest:
    """A parsed infer request.

    Attributes:
        id: the client's own name for the request.
        images: pixels, uint8 [batch, height, width, 3], or encoded files.
        outputs: the requested outputs by name, and whether each is binary.
    """

    id: str | None
    images: Pixels | list[bytes]
    outputs: dict[str, bool]


def parse_request(
    body: bytes, header_length: str | None, *, form: ScoreForm, max_images: int
) -> InferRequest:
    """Parse an infer request.

    Args:
        body: JSON, or JSON followed by the tensor's bytes.
        header_length: the value of the header that gives the length of the JSON in bytes.
        form: the policy's score form. A policy without scores offers `indices` alone.
        max_images: the limit on images in one request.

    Raises:
        ServiceError: bad_request if the message is malformed; bad_tensor if its tensor is;
            too_large if it has more images, more JSON or more lists than allowed.
    """
    split = len(body) if header_length is None else _parse_length(header_length, len(body))
    if split > MAX_JSON_BYTES or body.count(b"[", 0, split) > MAX_JSON_LISTS:
        raise ServiceError(TOO_LARGE)
    try:
        request = _Request.model_validate(orjson.loads(body[:split]))
    except (orjson.JSONDecodeError, ValidationError):
        raise ServiceError(BAD_REQUEST) from None
    tensor = request.inputs[0]
    if tensor.shape[0] > max_images:
        raise ServiceError(TOO_LARGE)
    images = _read_images(tensor, memoryview(body)[split:])
    return InferRequest(request.id, images, _select_outputs(request, form))


def _parse_length(header: str, total: int) -> int:
    if not (header.isascii() and header.isdigit() and len(header) < 16 and int(header) <= total):
        raise ServiceError(BAD_REQUEST)
    return int(header)


def _select_outputs(request: _Request, form: ScoreForm) -> dict[str, bool]:
    binary = request.parameters.binary_data_output
    available = ["indices"] if form is ScoreForm.NONE else ["indices", "scores", "logits"]
    if not request.outputs:
        return {name: binary for name in available if name != "logits"}
    selected: dict[str, bool] = {}
    for output in request.outputs:
        choice = output.parameters.binary_data
        selected[output.name] = binary if choice is None else choice
    # JSON has no -inf, so dense logits are sent in binary alone.
    if len(selected) != len(request.outputs) or set(selected) - set(available):
        raise ServiceError(BAD_REQUEST)
    if not selected.get("logits", True):
        raise ServiceError(BAD_REQUEST)
    return selected


def _read_images(tensor: _Input, binary: memoryview) -> Pixels | list[bytes]:
    size = tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None) or (size or 0) != len(binary):
        raise ServiceError(BAD_REQUEST)
    if min(tensor.shape) < 1:
        raise ServiceError(BAD_TENSOR)
    if tensor.datatype == "BYTES":
        return _read_files(tensor, binary)
    batched = len(tensor.shape) == 4
    if tensor.datatype == "UINT8":
        if not batched or tensor.shape[3] != 3:
            raise ServiceError(BAD_TENSOR)
        if size is not None:
            return _read_bytes(binary, np.dtype("u1"), tensor.shape)
        values = _read_json(tensor.data, tensor.shape, kinds="iu")
        if values.min() < 0 or values.max() > 255:
            raise ServiceError(BAD_TENSOR)
        return values.astype(np.uint8)
    if not batched or tensor.shape[1] != 3:
        raise ServiceError(BAD_TENSOR)
    if size is not None:
        values = _read_bytes(binary, np.dtype("<f4"), tensor.shape)
    else:
        values = _read_json(tensor.data, tensor.shape, kinds="iuf")
    return _to_uint8(values)


def _to_uint8(values: npt.NDArray[Any]) -> Pixels:
    """Convert pixels in 0..1, [batch, 3, height, width], to uint8 [batch, height, width, 3].

    After rounding to 8 bits the same picture is the same input, whatever its datatype was.
    """
    with np.errstate(invalid="ignore"):
        if not (values.min() >= 0 and values.max() <= 1):  # false for NaN too
            raise ServiceError(BAD_TENSOR)
    rounded = np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    return np.ascontiguousarray(rounded.transpose(0, 2, 3, 1))


def _read_bytes(binary: memoryview, dtype: np.dtype[Any], shape: list[int]) -> npt.NDArray[Any]:
    if len(binary) != dtype.itemsize * _count(shape):
        raise ServiceError(BAD_TENSOR)
    return np.frombuffer(binary, dtype).reshape(shape)


def _read_json(data: Any, shape: list[int], *, kinds: str) -> npt.NDArray[Any]:
    try:
        values = numbers(data, _count(shape))
    except ValueError:
        raise ServiceError(BAD_TENSOR) from None
    if values.dtype.kind not in kinds:
        raise ServiceError(BAD_TENSOR)
    return values.reshape(shape)


def numbers(data: Any, count: int) -> npt.NDArray[Any]:
    """Return the numbers of a JSON list, nested or not, as a flat array.

    Args:
        data: the list.
        count: the expected number of numbers.

    Raises:
        ValueError: if the list has another number of elements, or elements that are no numbers.
    """
    # Without dtype=object numpy would make a string of each element, as long as the longest one.
    leaves = np.asarray(data, dtype=object)
    if leaves.size != count:
        raise ValueError(f"expected {count} numbers, got {leaves.size}")
    flat = leaves.ravel().tolist()
    if not set(map(type, flat)) <= {int, float}:
        raise ValueError("expected numbers alone, got other elements")
    return np.asarray(flat)


def _count(shape: list[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _read_files(tensor: _Input, binary: memoryview) -> list[bytes]:
    """Return the elements of a binary BYTES tensor. Each follows its choice length, of 4 bytes."""
    if len(tensor.shape) != 1 or tensor.data is not None:
        raise ServiceError(BAD_TENSOR)
    files: list[bytes] = []
    start = 0
    while start < len(binary) and len(files) < tensor.shape[0]:
        stop = start + 4 + int.from_bytes(binary[start : start + 4], "little")
        files.append(bytes(binary[start + 4 : stop]))
        start = stop
    if start != len(binary) or len(files) != tensor.shape[0]:
        raise ServiceError(BAD_TENSOR)
    return files


def encode_answer(
    request: InferRequest, answer: SparseLogits, *, model: str, version: str
) -> Response:
    """Encode an answer in the outputs that the client requested."""
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name, binary in request.outputs.items():
        values = _output_values(name, answer)
        datatype = "INT64" if name == "indices" else "FP32"
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": values.shape}
        if binary:
            tail.append(values.tobytes())
            output["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            output["data"] = json_numbers(values, answer.decimals).ravel()
        outputs.append(output)
    message: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        message["id"] = request.id
    head = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tail:
        return Response(head, media_type=JSON)
    headers = {HEADER_LENGTH: str(len(head))}
    return Response(b"".join([head, *tail]), headers=headers, media_type=BINARY)


def json_numbers(values: npt.NDArray[Any], decimals: int) -> npt.NDArray[Any]:
    """Round float values to the grid, so that JSON has -0.012 and not -0.012000000104308128."""
    return values if values.dtype.kind == "i" else values.astype(np.float64).round(decimals)


def _output_values(name: str, answer: SparseLogits) -> npt.NDArray[Any]:
    indices = answer.indices.numpy()
    if name == "indices":
        return indices.astype("<i8", copy=False)
    assert answer.scores is not None  # noqa: S101  `_select_outputs` offers no scores without them
    scores = answer.scores.numpy().astype("<f4", copy=False)
    if name == "scores":
        return scores
    dense = np.full((len(scores), answer.num_classes), -np.inf, "<f4")
    np.put_along_axis(dense, indices, scores, axis=1)
    return dense
