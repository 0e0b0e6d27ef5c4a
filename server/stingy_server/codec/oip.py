"""The Open Inference Protocol v2 codec: JSON and the binary tensor extension.

A request has exactly one input, `image`. The client may choose the form of the output, never the
amount of information in it.
"""

import re
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stingy_protection import ScoreForm
from stingy_server.codec.images import Pixels
from stingy_server.errors import (
    BAD_REQUEST,
    BAD_TENSOR,
    JSON_TOO_LARGE,
    TOO_MANY_IMAGES,
    ServiceError,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"
BINARY_TYPES = {"UINT8": "u1", "FP32": "<f4"}
# Parsing JSON blocks all requests of the process, so larger requests must be binary. A list costs
# several times as much as a number. The limit is the number of lists in a black picture, written
# "[[0,0,0],...],", with rows of five pixels or more.
MAX_JSON_BYTES = 2 * 2**20
MAX_JSON_LISTS = MAX_JSON_BYTES // 7
MAX_JSON_OBJECTS = 64  # an object costs more than a list, and a request has about ten
INLINE_JSON_BYTES = 2**15  # parsed in a millisecond; more waits for the caller's turn
_COUNT = re.compile(rb'"shape"\s*:\s*\[\s*([1-9][0-9]{0,8})\s*[,\]]')
# A client sends the same head with each tensor of one shape, so parsed heads are kept.
KEPT_HEADS = 256
MAX_ID_LENGTH = 128
KEPT_HEAD_BYTES = 1024


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
    id: str | None = Field(default=None, max_length=MAX_ID_LENGTH)
    inputs: list[_Input] = Field(min_length=1, max_length=1)
    outputs: list[_Output] = Field(default=[], max_length=3)
    parameters: _RequestParameters = _RequestParameters()


@dataclass(frozen=True)
class InferHead:
    """The head of an infer request: all but its images.

    Attributes:
        id: the client's own name for the request.
        count: the number of images, at least 1.
        outputs: the requested outputs, each by its name and whether it is binary.
        length: bytes of the JSON. Binary data follows them.
        tail: bytes of the binary data.
        datatype: the input's type: UINT8, FP32 or BYTES.
        shape: the input's shape as declared. Its lengths are at least 1.
        data: the input's numbers, if they are in the JSON; None if they are binary.
    """

    id: str | None
    count: int
    outputs: tuple[tuple[str, bool], ...]
    length: int
    tail: int
    datatype: str
    shape: tuple[int, ...]
    data: Any = field(default=None, repr=False)

    @property
    def cost(self) -> int:
        """The work of reading the images, in pixels; files are counted by their number alone.

        Numbers in JSON are work whatever shape the client declares.
        """
        return prod(self.shape) if self.data is None else max(prod(self.shape), self.length)


def parse_head(
    body: bytes, header_length: str | None, *, form: ScoreForm, max_images: int
) -> InferHead:
    """Parse the head of an infer request. No pixel is read.

    Args:
        body: JSON, or JSON followed by the tensor's bytes.
        header_length: the value of the header that gives the length of the JSON in bytes.
        form: the policy's score form. A policy without scores offers `indices` alone.
        max_images: the limit on images in one request.

    Raises:
        ServiceError: bad_request if the message is malformed; bad_tensor if its shape is, or if it
            has another number of bytes than that shape; too_large if it has more images, more JSON,
            more lists or more objects than allowed.
    """
    split = _json_bytes(body, header_length)
    _check_json(body, split)
    text = body[:split]
    head = _kept_heads.get((text, form)) or _parse_text(text, form)
    if head.count > max_images:
        raise ServiceError(TOO_MANY_IMAGES, limit=max_images)
    if head.tail != len(body) - split:
        raise ServiceError(BAD_REQUEST)
    return head


# Without pixels and without ids, so it has nothing that only one client knows.
_kept_heads: dict[tuple[bytes, ScoreForm], InferHead] = {}


def count_large_json(body: bytes, header_length: str | None, *, max_images: int) -> int | None:
    """Return the images that large JSON declares, or None if the JSON is not large.

    Parsing large JSON takes long and needs many times its memory, so the key is charged before. The
    caller of `parse_head` then compares the number with the true one.

    Raises:
        ServiceError: bad_request, if the number is not found; too_large, as from `parse_head`.
    """
    if len(body) <= INLINE_JSON_BYTES:
        return None
    size = _json_bytes(body, header_length)
    if size <= INLINE_JSON_BYTES:
        return None
    _check_json(body, size)
    found = _COUNT.findall(body, 0, size)
    if len(found) != 1:
        raise ServiceError(BAD_REQUEST)
    count = int(found[0])
    if count > max_images:
        raise ServiceError(TOO_MANY_IMAGES, limit=max_images)
    return count


def _json_bytes(body: bytes, header_length: str | None) -> int:
    return len(body) if header_length is None else _parse_length(header_length, len(body))


def _check_json(body: bytes, size: int) -> None:
    """Raise ServiceError, too_large, if JSON has more bytes, lists or objects than allowed."""
    if (
        size > MAX_JSON_BYTES
        or body.count(b"[", 0, size) > MAX_JSON_LISTS
        or body.count(b"{", 0, size) > MAX_JSON_OBJECTS
    ):
        raise ServiceError(JSON_TOO_LARGE)


def _parse_text(text: bytes, form: ScoreForm) -> InferHead:
    """Parse the JSON of an infer request. Keep its head, without its id, if it is short."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ServiceError(BAD_REQUEST) from None
    if len(text) > KEPT_HEAD_BYTES or not isinstance(document, dict):
        return _validate_head(document, len(text), form)
    identifier = document.pop("id", None)
    if identifier is not None:
        if not isinstance(identifier, str) or len(identifier) > MAX_ID_LENGTH:
            raise ServiceError(BAD_REQUEST)
        text_without = orjson.dumps(document)
        head = _kept_heads.get((text_without, form))
        if head is None:
            head = _keep(text_without, form, _validate_head(document, len(text_without), form))
        return replace(head, id=identifier, length=len(text))
    return _keep(text, form, _validate_head(document, len(text), form))


def _keep(text: bytes, form: ScoreForm, head: InferHead) -> InferHead:
    if head.data is None:
        if len(_kept_heads) == KEPT_HEADS:
            del _kept_heads[next(iter(_kept_heads))]
        _kept_heads[text, form] = head
    return head


def _validate_head(document: Any, length: int, form: ScoreForm) -> InferHead:
    try:
        request = _Request.model_validate(document)
    except ValidationError:
        raise ServiceError(BAD_REQUEST) from None
    tensor = request.inputs[0]
    size = tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise ServiceError(BAD_REQUEST)
    _check_shape(tensor, size)
    return InferHead(
        id=request.id,
        count=tensor.shape[0],
        outputs=_select_outputs(request, form),
        length=length,
        tail=size or 0,
        datatype=tensor.datatype,
        shape=tuple(tensor.shape),
        data=tensor.data,
    )


def read_tensor(head: InferHead, body: bytes) -> Pixels:
    """Read the pixels of a request that has no files, uint8 [batch, height, width, 3].

    Args:
        head: the request's head, of the type UINT8 or FP32.
        body: the body that it was parsed from.

    Raises:
        ServiceError: bad_tensor, if the data is malformed or out of range.
    """
    if head.data is None:
        values = binary_values(head, body)
        return to_uint8(values) if head.datatype == "FP32" else values
    values = _read_json(head.data, head.shape, kinds="iu" if head.datatype == "UINT8" else "iuf")
    if head.datatype == "FP32":
        return to_uint8(values)
    if values.min() < 0 or values.max() > 255:
        raise ServiceError(BAD_TENSOR)
    return values.astype(np.uint8)


def binary_values(head: InferHead, body: bytes) -> npt.NDArray[Any]:
    """Return the binary values of a request in their declared type and shape, without a copy."""
    dtype = np.dtype(BINARY_TYPES[head.datatype])
    return np.frombuffer(body, dtype, offset=head.length).reshape(head.shape)


def read_files(head: InferHead, body: bytes) -> list[bytes]:
    """Return the elements of a binary BYTES tensor. Each follows its own length, of 4 bytes.

    Raises:
        ServiceError: bad_tensor, if the lengths do not add up, or there are not `head.count`.
    """
    files: list[bytes] = []
    start = head.length
    while start < len(body) and len(files) < head.count:
        stop = start + 4 + int.from_bytes(body[start : start + 4], "little")
        files.append(body[start + 4 : stop])
        start = stop
    if start != len(body) or len(files) != head.count:
        raise ServiceError(BAD_TENSOR)
    return files


def _check_shape(tensor: _Input, size: int | None) -> None:
    shape = tensor.shape
    if min(shape) < 1:
        raise ServiceError(BAD_TENSOR)
    if tensor.datatype == "BYTES":
        if len(shape) != 1 or size is None:
            raise ServiceError(BAD_TENSOR)
        return
    if len(shape) != 4 or shape[3 if tensor.datatype == "UINT8" else 1] != 3:
        raise ServiceError(BAD_TENSOR)
    if size is not None and size != np.dtype(BINARY_TYPES[tensor.datatype]).itemsize * prod(shape):
        raise ServiceError(BAD_TENSOR)


def _parse_length(header: str, total: int) -> int:
    if not (header.isascii() and header.isdigit() and len(header) < 16 and int(header) <= total):
        raise ServiceError(BAD_REQUEST)
    return int(header)


def _select_outputs(request: _Request, form: ScoreForm) -> tuple[tuple[str, bool], ...]:
    binary = request.parameters.binary_data_output
    available = ["indices"] if form is ScoreForm.NONE else ["indices", "scores", "logits"]
    if not request.outputs:
        return tuple((name, binary) for name in available if name != "logits")
    selected: dict[str, bool] = {}
    for output in request.outputs:
        choice = output.parameters.binary_data
        selected[output.name] = binary if choice is None else choice
    # JSON has no -inf, so dense logits are sent in binary alone.
    if len(selected) != len(request.outputs) or set(selected) - set(available):
        raise ServiceError(BAD_REQUEST)
    if not selected.get("logits", True):
        raise ServiceError(BAD_REQUEST)
    return tuple(selected.items())


def to_uint8(values: npt.NDArray[Any]) -> Pixels:
    """Convert pixels in 0..1, [batch, 3, height, width], to uint8 [batch, height, width, 3].

    After rounding to 8 bits the same picture is the same input, whatever its datatype was.

    Raises:
        ServiceError: bad_tensor, if a value is no number in 0..1.
    """
    with np.errstate(invalid="ignore"):
        if not (values.min() >= 0 and values.max() <= 1):  # false for NaN too
            raise ServiceError(BAD_TENSOR)
    rounded = np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    return np.ascontiguousarray(rounded.transpose(0, 2, 3, 1))


def _read_json(data: Any, shape: tuple[int, ...], *, kinds: str) -> npt.NDArray[Any]:
    try:
        values = numbers(data, prod(shape))
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
