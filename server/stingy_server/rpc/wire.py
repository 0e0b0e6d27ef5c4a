"""The outer fields of an infer request, found in its bytes before any parser reads them.

A parser makes many times as much of hostile bytes as they are: a megabyte may be half a million
empty tensors. So the raw tensors are cut out here, without a copy, and what is left has a limit.
"""

from collections.abc import Iterator
from typing import NamedTuple

from stingy_server.codec.oip import MAX_JSON_BYTES
from stingy_server.errors import (
    BAD_REQUEST,
    BAD_TENSOR,
    HEAD_TOO_LARGE,
    TOO_MANY_IMAGES,
    ServiceError,
)

# As in JSON: tensors that are no raw bytes are numbers that a parser reads one by one.
MAX_HEAD_BYTES = MAX_JSON_BYTES
INLINE_HEAD_BYTES = 2**15  # parsed in about a millisecond; more waits for the caller's turn
MAX_FIELDS = 64  # of a request, and before the shape of its tensor; a client sends about ten
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # the kinds of fields
FIXED = {FIXED64: 8, FIXED32: 4}
MODEL_NAME, MODEL_VERSION, INPUTS, RAW_INPUTS = 1, 2, 5, 7  # fields of a request
SHAPE = 3  # field of a tensor


class Field(NamedTuple):
    """A field in the bytes of a message: its tag begins at `tag`, its value at `start`."""

    number: int
    kind: int
    tag: int
    start: int
    stop: int


class InferMessage(NamedTuple):
    """An infer request whose tensors were not parsed.

    Attributes:
        model: the name of the model.
        version: its version; None if the client names none.
        head: all fields but the raw tensors.
        raw: the raw tensors, as parts of the message.
    """

    model: str
    version: str | None
    head: bytes
    raw: tuple[memoryview, ...]


def split_request(message: bytes) -> InferMessage:
    """Split an infer request into its head and its raw tensors.

    Raises:
        ServiceError: bad_request, if it is malformed; too_large, if its head is.
    """
    view = memoryview(message)
    pieces: list[memoryview] = []
    raw: list[memoryview] = []
    names = {MODEL_NAME: b"", MODEL_VERSION: b""}
    nbytes = 0
    for field in read_fields(message, 0, len(message)):
        if (field.number, field.kind) == (RAW_INPUTS, BYTES):
            raw.append(view[field.start : field.stop])
            continue
        nbytes += field.stop - field.tag
        if nbytes > MAX_HEAD_BYTES:
            raise ServiceError(HEAD_TOO_LARGE)
        pieces.append(view[field.tag : field.stop])
        if field.number in names and field.kind == BYTES:
            names[field.number] = message[field.start : field.stop]
    try:
        model, version = names[MODEL_NAME].decode(), names[MODEL_VERSION].decode()
    except UnicodeDecodeError:
        raise ServiceError(BAD_REQUEST) from None
    return InferMessage(model, version or None, b"".join(pieces), tuple(raw))


def count_large_head(message: InferMessage, *, max_images: int) -> int | None:
    """Return the images that a large head declares, or None if the head is not large.

    Raises:
        ServiceError: bad_request, if the number is not found; bad_tensor or too_large, if it is out
            of range.
    """
    head = message.head
    if len(head) <= INLINE_HEAD_BYTES:
        return None
    tensors = [field for field in read_fields(head, 0, len(head)) if field.number == INPUTS]
    if len(tensors) != 1 or tensors[0].kind != BYTES:
        raise ServiceError(BAD_REQUEST)
    for field in read_fields(head, tensors[0].start, tensors[0].stop):
        if field.number == SHAPE and field.kind in (VARINT, BYTES):
            count, _ = _read_varint(head, field.start, field.stop)
            break
    else:
        raise ServiceError(BAD_REQUEST)
    if not 0 < count < 2**63:
        raise ServiceError(BAD_TENSOR)
    if count > max_images:
        raise ServiceError(TOO_MANY_IMAGES, limit=max_images)
    return count


def read_fields(data: bytes, start: int, stop: int) -> Iterator[Field]:
    """Yield the fields of a message that lies in `data[start:stop]`.

    Raises:
        ServiceError: bad_request, if it is malformed; too_large, if it has more than MAX_FIELDS.
    """
    count = 0
    while start < stop:
        count += 1
        if count > MAX_FIELDS:
            raise ServiceError(HEAD_TOO_LARGE)
        tag = start
        value, begin = _read_varint(data, start, stop)
        number, kind = value >> 3, value & 7
        if kind == VARINT:
            _, start = _read_varint(data, begin, stop)
        elif kind == BYTES:
            size, begin = _read_varint(data, begin, stop)
            start = begin + size
        elif kind in FIXED:
            start = begin + FIXED[kind]
        else:
            raise ServiceError(BAD_REQUEST)
        if not number or start > stop:
            raise ServiceError(BAD_REQUEST)
        yield Field(number, kind, tag, begin, start)


def _read_varint(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Return a number of variable length, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if start >= stop:
            break
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
    raise ServiceError(BAD_REQUEST)
