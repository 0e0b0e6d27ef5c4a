"""The tensors of the Open Inference Protocol v2: from JSON or bytes to pixels and files.

After rounding to 8 bits the same picture is the same input, whatever its datatype was.
"""

import base64
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stingy_server.codec.images import Pixels
from stingy_server.codec.oip import BINARY_TYPES, INTEGER_TYPES, InferHead
from stingy_server.errors import (
    BAD_BASE64,
    BAD_TENSOR,
    FLOAT_RANGE,
    INTEGER_RANGE,
    ServiceError,
)

Body: TypeAlias = bytes | memoryview  # of a request, or the part of it that has the tensor
PIXEL_MAX = 255


def read_tensor(head: InferHead, body: Body) -> Pixels:
    """Read the pixels of a request that has no files, uint8 [batch, height, width, 3].

    Args:
        head: the request's head, of one of the types in `BINARY_TYPES`.
        body: the body that it was parsed from.

    Raises:
        ServiceError: bad_tensor, if the data is malformed or out of range.
    """
    if head.data is None:
        return to_pixels(binary_values(head, body), head.datatype)
    datatype = head.datatype
    if datatype not in INTEGER_TYPES:
        return _unit_to_pixels(_read_json(head.data, head.shape, kinds="iuf"))
    values = _read_json(head.data, head.shape, kinds="iu")
    most = min(PIXEL_MAX, np.iinfo(INTEGER_TYPES[datatype]).max)
    return _integers_to_pixels(values, most=most)


def binary_values(head: InferHead, body: Body) -> npt.NDArray[Any]:
    """Return the binary values of a request in their declared shape, without a copy."""
    dtype = BINARY_TYPES[head.datatype]
    return np.frombuffer(body, dtype, offset=head.length).reshape(head.shape)


def to_pixels(values: npt.NDArray[Any], datatype: str) -> Pixels:
    """Convert binary values to uint8 [batch, height, width, 3].

    Args:
        values: as from `binary_values`. Integers are [batch, height, width, 3], 0 to 255; floats
            are [batch, 3, height, width], 0 to 1.
        datatype: one of `BINARY_TYPES`. UINT8 is returned without a copy.

    Raises:
        ServiceError: bad_tensor, if a value is out of range or no number.
    """
    if datatype == "UINT8":
        return values
    if datatype in INTEGER_TYPES:
        return _integers_to_pixels(values, most=PIXEL_MAX)
    if datatype == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return _unit_to_pixels(values)


def read_files(head: InferHead, body: Body) -> list[bytes]:
    """Return the elements of a BYTES tensor: in base64 in JSON, or each behind its length.

    Elements that protobuf has delimited are in the head's data, as bytes.

    Raises:
        ServiceError: bad_tensor, if an element is broken, or there are not `head.count`.
    """
    if head.data is not None:
        return _decode_texts(head.data, count=head.count)
    files: list[bytes] = []
    start = head.length
    while start < len(body) and len(files) < head.count:
        stop = start + 4 + int.from_bytes(body[start : start + 4], "little")
        files.append(bytes(body[start + 4 : stop]))
        start = stop
    if start != len(body) or len(files) != head.count:
        raise ServiceError(BAD_TENSOR)
    return files


def _decode_texts(texts: Any, *, count: int) -> list[bytes]:
    if not isinstance(texts, list) or len(texts) != count:
        raise ServiceError(BAD_TENSOR)
    try:
        return [
            text if isinstance(text, bytes) else base64.b64decode(text, validate=True)
            for text in texts
        ]
    except (TypeError, ValueError):  # no text, or no base64
        raise ServiceError(BAD_BASE64) from None


def _integers_to_pixels(values: npt.NDArray[Any], *, most: int) -> Pixels:
    if values.min() < 0 or values.max() > most:
        raise ServiceError(INTEGER_RANGE)
    return values.astype(np.uint8)


def _unit_to_pixels(values: npt.NDArray[Any]) -> Pixels:
    with np.errstate(invalid="ignore"):
        if not (values.min() >= 0 and values.max() <= 1):  # false for NaN too
            raise ServiceError(FLOAT_RANGE)
    rounded = np.rint(values.astype(np.float32) * PIXEL_MAX).astype(np.uint8)
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
