"""Every datatype of the protocol gives the same pixels, and what is out of range is refused."""

import base64
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stingy_protection import ScoreForm
from stingy_server.codec.oip import BINARY_TYPES, FLOAT_TYPES, INTEGER_TYPES, parse_head
from stingy_server.codec.oip_tensors import read_files, read_tensor
from stingy_server.errors import (
    BAD_BASE64,
    BAD_TENSOR,
    FLOAT_RANGE,
    INTEGER_RANGE,
    Refusal,
    ServiceError,
)

# Every value of a pixel, below 128 for the type that has no more.
ALL = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
LOW = ALL // 2


def read(datatype: str, values: Any, *, shape: tuple[int, ...], binary: bool) -> Any:
    """Read a request with these values: bytes if `binary`, else a list."""
    tensor: dict[str, Any] = {"name": "image", "datatype": datatype, "shape": shape}
    length = None
    if binary:
        tensor["parameters"] = {"binary_data_size": len(values)}
    else:
        tensor["data"] = values
    body = json.dumps({"inputs": [tensor]}).encode()
    if binary:
        length, body = str(len(body)), body + values
    head = parse_head(body, length, form=ScoreForm.LOG_PROB, max_images=8)
    return read_files(head, body) if datatype == "BYTES" else read_tensor(head, body)


def bfloat16(values: npt.NDArray[np.float32]) -> bytes:
    """Round to the nearest BF16, as frameworks do, and return its bytes."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", INTEGER_TYPES)
def test_integer_pixels_of_every_type_are_read_exactly(datatype: str, binary: bool) -> None:
    pixels = LOW if datatype == "INT8" else ALL
    values = pixels.astype(INTEGER_TYPES[datatype])
    sent = values.tobytes() if binary else values.tolist()
    assert np.array_equal(read(datatype, sent, shape=pixels.shape, binary=binary), pixels)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", FLOAT_TYPES)
def test_float_pixels_of_every_type_are_read_exactly(datatype: str, binary: bool) -> None:
    planes = (ALL.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    sent: Any = planes.tolist()
    if binary and datatype == "BF16":
        sent = bfloat16(planes)
    elif binary:
        sent = planes.astype(FLOAT_TYPES[datatype]).tobytes()
    assert np.array_equal(read(datatype, sent, shape=planes.shape, binary=binary), ALL)


OUT_OF_RANGE: list[tuple[str, float, Refusal]] = [
    ("INT8", -1, INTEGER_RANGE),
    ("INT16", -1, INTEGER_RANGE),
    ("UINT16", 256, INTEGER_RANGE),
    ("INT32", 256, INTEGER_RANGE),
    ("UINT32", 2**32 - 1, INTEGER_RANGE),
    ("INT64", -(2**63), INTEGER_RANGE),
    ("UINT64", 2**64 - 1, INTEGER_RANGE),
    ("FP16", 1.01, FLOAT_RANGE),
    ("FP16", float("nan"), FLOAT_RANGE),
    ("FP32", -0.001, FLOAT_RANGE),
    ("FP64", 1 + 1e-12, FLOAT_RANGE),
    ("FP64", float("inf"), FLOAT_RANGE),
    ("BF16", 2.0, FLOAT_RANGE),
    ("BF16", float("nan"), FLOAT_RANGE),
]


@pytest.mark.parametrize(("datatype", "value", "refusal"), OUT_OF_RANGE)
def test_value_out_of_range_is_refused_by_a_sentence_of_its_own(
    datatype: str, value: float, refusal: Refusal
) -> None:
    shape = (1, 1, 1, 3) if datatype in INTEGER_TYPES else (1, 3, 1, 1)
    if datatype == "BF16":
        sent = bfloat16(np.array([0, 0, value], np.float32))
    else:
        sent = np.array([0, 0, value], BINARY_TYPES[datatype]).tobytes()
    with pytest.raises(ServiceError) as error:
        read(datatype, sent, shape=shape, binary=True)
    assert error.value.refusal is refusal


@pytest.mark.parametrize(
    ("datatype", "data", "refusal"),
    [
        ("INT8", [0, 0, 128], INTEGER_RANGE),  # a pixel, but no INT8
        ("INT64", [0, 0, 256], INTEGER_RANGE),
        ("INT64", [0, 0, 1.0], BAD_TENSOR),
        ("UINT64", [0, 0, 2**40], INTEGER_RANGE),
        ("FP16", [0, 0, 1.5], FLOAT_RANGE),
    ],
)
def test_json_value_out_of_range_is_refused(datatype: str, data: Any, refusal: Refusal) -> None:
    shape = (1, 1, 1, 3) if datatype in INTEGER_TYPES else (1, 3, 1, 1)
    with pytest.raises(ServiceError) as error:
        read(datatype, data, shape=shape, binary=False)
    assert error.value.refusal is refusal


def test_files_in_base64_are_read_unchanged() -> None:
    files = [b"", b"one", bytes(range(256))]
    texts = [base64.b64encode(file).decode() for file in files]
    assert read("BYTES", texts, shape=(3,), binary=False) == files


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (["*"], BAD_BASE64),
        (["b25l\n"], BAD_BASE64),
        (["b25"], BAD_BASE64),
        (["\u00e9"], BAD_BASE64),
        ([1], BAD_BASE64),
        ([None], BAD_BASE64),
        ([["b25l"]], BAD_BASE64),
        (["b25l", "b25l"], BAD_TENSOR),
        ("b25l", BAD_TENSOR),
        ({"b64": "b25l"}, BAD_TENSOR),
    ],
)
def test_text_that_is_no_base64_is_refused(data: Any, refusal: Refusal) -> None:
    with pytest.raises(ServiceError) as error:
        read("BYTES", data, shape=(1,), binary=False)
    assert error.value.refusal is refusal
