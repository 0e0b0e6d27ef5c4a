"""The Open Inference Protocol v2 codec: JSON and the binary tensor extension.

A request has exactly one input, `image`. The client may choose the form of the output, never the
amount of information in it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stingy_protection import ScoreForm
from stingy_server.errors import (
    BAD_REQUEST,
    BAD_TENSOR,
    JSON_TOO_LARGE,
    NOT_CLASSIFIED,
    SHARED_MEMORY,
    TOO_MANY_IMAGES,
    UNKNOWN_DATATYPE,
    ServiceError,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"
# Integer pixels are 0..255, [batch, height, width, 3].
INTEGER_TYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in (
        ("UINT8", "u1"),
        ("INT8", "i1"),
        ("UINT16", "<u2"),
        ("INT16", "<i2"),
        ("UINT32", "<u4"),
        ("INT32", "<i4"),
        ("UINT64", "<u8"),
        ("INT64", "<i8"),
    )
}
# Float pixels are 0..1, [batch, 3, height, width]. numpy has no BF16, so its bits are read.
FLOAT_TYPES: Mapping[str, np.dtype[Any]] = {
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
BINARY_TYPES = {**INTEGER_TYPES, **FLOAT_TYPES}
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
    shared_memory_region: Any = None


class _Input(_Message):
    name: Literal["image"]
    datatype: str
    shape: list[int] = Field(min_length=1, max_length=4)
    parameters: _TensorParameters | None = None
    data: Any = None


class _OutputParameters(_Message):
    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: Any = None


class _Output(_Message):
    name: Literal["indices", "scores", "logits"]
    parameters: _OutputParameters | None = None


class _RequestParameters(_Message):
    binary_data_output: bool | None = None


class _Request(_Message):
    id: Any = None
    inputs: list[_Input] = Field(min_length=1, max_length=1)
    outputs: list[_Output] | None = Field(default=None, max_length=3)
    parameters: _RequestParameters | None = None


@dataclass(frozen=True)
class InferHead:
    """The head of an infer request: all but its images.

    Attributes:
        id: the client's own name for the request; a number is kept as text.
        count: the number of images, at least 1.
        outputs: the requested outputs, each by its name and whether it is binary.
        length: bytes of the JSON. Binary data follows them.
        tail: bytes of the binary data.
        datatype: the input's type: BYTES, or one of `BINARY_TYPES`.
        shape: the input's shape as declared. Its lengths are at least 1.
        data: the input's numbers or texts, if they are in the JSON; None if they are binary.
        classified: the outputs that are sent as classes, each with the most classes of a row.
    """

    id: str | None
    count: int
    outputs: tuple[tuple[str, bool], ...]
    length: int
    tail: int
    datatype: str
    shape: tuple[int, ...]
    data: Any = field(default=None, repr=False)
    classified: tuple[tuple[str, int], ...] = ()

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
    identifier = _read_id(document.pop("id", None))
    if identifier is not None:
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
    parameters = tensor.parameters or _TensorParameters()
    if parameters.shared_memory_region is not None:
        raise ServiceError(SHARED_MEMORY)
    if tensor.datatype != "BYTES" and tensor.datatype not in BINARY_TYPES:
        raise ServiceError(UNKNOWN_DATATYPE)
    size = parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise ServiceError(BAD_REQUEST)
    _check_shape(tensor, size)
    outputs, classified = _select_outputs(request, form)
    return InferHead(
        id=_read_id(request.id),
        count=tensor.shape[0],
        outputs=outputs,
        length=length,
        tail=size or 0,
        datatype=tensor.datatype,
        shape=tuple(tensor.shape),
        data=tensor.data,
        classified=classified,
    )


def _read_id(identifier: Any) -> str | None:
    """Return the id of a request as text.

    Raises:
        ServiceError: bad_request, if it is neither a short text nor an integer.
    """
    if type(identifier) is int:
        return str(identifier)
    if identifier is None or (isinstance(identifier, str) and len(identifier) <= MAX_ID_LENGTH):
        return identifier
    raise ServiceError(BAD_REQUEST)


def _check_shape(tensor: _Input, size: int | None) -> None:
    shape = tensor.shape
    if min(shape) < 1:
        raise ServiceError(BAD_TENSOR)
    if tensor.datatype == "BYTES":
        if len(shape) != 1:
            raise ServiceError(BAD_TENSOR)
        return
    if len(shape) != 4 or shape[3 if tensor.datatype in INTEGER_TYPES else 1] != 3:
        raise ServiceError(BAD_TENSOR)
    if size is not None and size != BINARY_TYPES[tensor.datatype].itemsize * prod(shape):
        raise ServiceError(BAD_TENSOR)


def read_document(document: Any, length: int, *, form: ScoreForm, max_images: int) -> InferHead:
    """Read the head of a request that came in another form than JSON. No pixel is read.

    Args:
        document: what its JSON would be.
        length: bytes of its head, behind which binary data begins.
        form, max_images: as in `parse_head`.

    Raises:
        ServiceError: as from `parse_head`.
    """
    head = _validate_head(document, length, form)
    if head.count > max_images:
        raise ServiceError(TOO_MANY_IMAGES, limit=max_images)
    return head


def _parse_length(header: str, total: int) -> int:
    if not (header.isascii() and header.isdigit() and len(header) < 16 and int(header) <= total):
        raise ServiceError(BAD_REQUEST)
    return int(header)


def _select_outputs(
    request: _Request, form: ScoreForm
) -> tuple[tuple[tuple[str, bool], ...], tuple[tuple[str, int], ...]]:
    """Return the requested outputs, and those that are sent as classes.

    Raises:
        ServiceError: bad_request, if the policy has no such output, or not in this form.
    """
    binary = bool(request.parameters and request.parameters.binary_data_output)
    available = ["indices"] if form is ScoreForm.NONE else ["indices", "scores", "logits"]
    if not request.outputs:
        return tuple((name, binary) for name in available if name != "logits"), ()
    selected: dict[str, bool] = {}
    classified: dict[str, int] = {}
    for output in request.outputs:
        parameters = output.parameters or _OutputParameters()
        if parameters.shared_memory_region is not None:
            raise ServiceError(SHARED_MEMORY)
        choice = parameters.binary_data
        selected[output.name] = binary if choice is None else choice
        if parameters.classification:  # 0 is none
            classified[output.name] = parameters.classification
    # A score goes with each class, so a policy without scores has no classes to send.
    if classified and (form is ScoreForm.NONE or min(classified.values()) < 1):
        raise ServiceError(NOT_CLASSIFIED)
    if len(selected) != len(request.outputs) or set(selected) - set(available):
        raise ServiceError(BAD_REQUEST)
    # JSON has no -inf, so dense logits are sent in binary alone.
    if not selected.get("logits", True) and "logits" not in classified:
        raise ServiceError(BAD_REQUEST)
    return tuple(selected.items()), tuple(classified.items())
