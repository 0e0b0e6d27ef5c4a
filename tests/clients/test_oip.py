"""The Open Inference Protocol to the byte, and every kind of faulty response."""

import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stingy_clients import UnexpectedAnswer
from stingy_clients.oip import (
    LENGTH_HEADER,
    Tensors,
    check_values,
    decode_metadata,
    decode_response,
    encode_request,
)

Document = dict[str, Any]


def tensor(name: str, datatype: str, shape: list[int], size: int) -> Document:
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


def response(change: Callable[[Document], object] = lambda document: None) -> tuple[bytes, str]:
    """Build a response by hand, for two images with two classes. `change` may edit the JSON."""
    document: Document = {
        "model_name": "pets",
        "model_version": "1",
        "outputs": [
            tensor("indices", "INT64", [2, 2], 32),
            tensor("scores", "FP32", [2, 2], 16),
        ],
    }
    change(document)
    head = json.dumps(document).encode()
    data = struct.pack("<4q", 3, 1, 0, 2) + struct.pack("<4f", -0.5, -1.5, -0.25, -2)
    return head + data, str(len(head))


def decode(content: bytes, length: str | None) -> Tensors:
    return decode_response(content, length, model="pets", count=2)


def test_encoded_files_are_sent_after_their_lengths() -> None:
    headers, content = encode_request((b"abc", b""))
    length = int(headers[LENGTH_HEADER])
    (sent,) = json.loads(content[:length])["inputs"]
    assert sent == tensor("image", "BYTES", [2], 11)
    assert content[length:] == b"\x03\0\0\0abc\0\0\0\0"


def test_pixels_are_sent_row_by_row_for_any_memory_layout() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    for array in (pixels.transpose(0, 2, 1, 3), np.asfortranarray(pixels)):
        headers, content = encode_request(array)
        rows = bytes(array.ravel(order="C").tolist())
        assert content[int(headers[LENGTH_HEADER]) :] == rows


def test_a_response_is_decoded_in_any_order_of_outputs() -> None:
    found = decode(*response())
    assert found.indices.tolist() == [[3, 1], [0, 2]]
    assert found.scores is not None
    assert found.scores.tolist() == [[-0.5, -1.5], [-0.25, -2.0]]
    head = json.dumps(
        {
            "model_name": "pets",
            "model_version": "1",
            "outputs": [
                tensor("scores", "FP32", [2, 1], 8),
                tensor("indices", "INT64", [2, 1], 16),
            ],
        }
    ).encode()
    turned = decode(head + struct.pack("<2f2q", -1, -2, 4, 0), str(len(head)))
    assert turned.indices.tolist() == [[4], [0]]
    assert turned.scores is not None
    assert turned.scores.tolist() == [[-1], [-2]]


SPOILED: dict[str, Callable[[Document], object]] = {
    "scores beside the form none": lambda d: d.update(parameters={"scores": "none"}),
    "form a number": lambda d: d.update(parameters={"scores": 1}),
    "another model": lambda d: d.update(model_name="others"),
    "no version": lambda d: d.pop("model_version"),
    "version a number": lambda d: d.update(model_version=1),
    "no outputs": lambda d: d.update(outputs=[]),
    "indices missing": lambda d: d["outputs"].pop(0),
    "scores missing, their bytes there": lambda d: d["outputs"].pop(1),
    "indices twice": lambda d: d.update(outputs=[d["outputs"][0]] * 2),
    "unknown output": lambda d: d["outputs"][1].update(name="logits"),
    "indices as INT32": lambda d: d["outputs"][0].update(datatype="INT32"),
    "scores as FP64": lambda d: d["outputs"][1].update(datatype="FP64"),
    "scores as JSON": lambda d: d["outputs"][1].update(parameters={}, data=[1, 2, 3, 4]),
    "no shape": lambda d: d["outputs"][0].pop("shape"),
    "one dimension": lambda d: d["outputs"][0].update(shape=[4]),
    "another batch": lambda d: [output.update(shape=[1, 4]) for output in d["outputs"]],
    "shapes that differ": lambda d: d["outputs"][1].update(shape=[1, 4]),
    "no classes": lambda d: [
        output.update(shape=[2, 0], parameters={"binary_data_size": 0}) for output in d["outputs"]
    ],
    "negative shape": lambda d: d["outputs"][0].update(shape=[-2, -2]),
    "size too small": lambda d: d["outputs"][0]["parameters"].update(binary_data_size=31),
    "size too large": lambda d: d["outputs"][1]["parameters"].update(binary_data_size=20),
    "size negative": lambda d: d["outputs"][0]["parameters"].update(binary_data_size=-32),
    "huge": lambda d: [
        output.update(
            shape=[2, 2**40],
            parameters={"binary_data_size": 2**41 * (8 if output["name"] == "indices" else 4)},
        )
        for output in d["outputs"]
    ],
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_faulty_response_is_refused(name: str) -> None:
    with pytest.raises(UnexpectedAnswer):
        decode(*response(SPOILED[name]))


@pytest.mark.parametrize(
    "length", [None, "", "-1", "x", "1.0", "²", "9" * 5000, "999999", "0", "5"]
)
def test_a_faulty_length_is_refused(length: str | None) -> None:
    with pytest.raises(UnexpectedAnswer):
        decode(response()[0], length)


def test_missing_or_extra_bytes_are_refused() -> None:
    content, length = response()
    for spoiled in (content[:-1], content + b"\0", content[: int(length)]):
        with pytest.raises(UnexpectedAnswer):
            decode(spoiled, length)


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_response_is_either_decoded_or_refused(data: st.DataObject) -> None:
    content, length = response()
    at = data.draw(st.integers(0, len(content) - 1))
    cut = data.draw(st.integers(0, 4))
    spoiled = content[:at] + data.draw(st.binary(max_size=4)) + content[at + cut :]
    header = data.draw(st.sampled_from([length]) | st.text(max_size=5))
    try:
        found = decode(spoiled, header)
        check_values(found, num_classes=5)
    except UnexpectedAnswer:
        return
    assert found.indices.shape == (2, 2)
    assert {0, 1, 2, 3, 4} >= set(found.indices.ravel().tolist())


def tensors(indices: list[list[int]], scores: list[list[float]] | None) -> Tensors:
    values = None if scores is None else np.array(scores, np.float32)
    return Tensors("1", np.array(indices, np.int64), values)


def test_values_in_range_are_accepted() -> None:
    check_values(tensors([[0, 4], [4, 0]], [[0, -1], [-1, 0]]), num_classes=5)
    check_values(tensors([[2], [2]], None), num_classes=3)


@pytest.mark.parametrize(
    ("indices", "scores"),
    [
        ([[0, 5]], None),
        ([[-1, 0]], None),
        ([[0, 1], [3, 3]], None),
        ([[0, 1]], [[0.0, math.nan]]),
        ([[0, 1]], [[0.0, -math.inf]]),
    ],
)
def test_values_out_of_range_are_refused(
    indices: list[list[int]], scores: list[list[float]] | None
) -> None:
    with pytest.raises(UnexpectedAnswer):
        check_values(tensors(indices, scores), num_classes=5)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"name": "stingy", "extensions": []}', b"\xff"])
def test_metadata_of_another_server_is_refused(content: bytes) -> None:
    with pytest.raises(UnexpectedAnswer):
        decode_metadata(content)


def test_form_of_the_scores_is_read() -> None:
    assert decode(*response()).form is None
    named = response(lambda document: document.update(parameters={"scores": "prob", "new": 1}))
    assert decode(*named).form == "prob"


METADATA: Document = {
    "name": "pets",
    "versions": ["1", "2"],
    "parameters": {
        "labels": ["a", "b"],
        "num_classes": 2,
        "policy": "stingy",
        "support": 1,
        "scores": "log_prob",
        "decimals": 3,
        "fingerprint": "0123456789ab",
        "image_size": [8, 8],
        "max_batch": 256,
    },
}


def test_metadata_names_the_version_that_it_describes() -> None:
    parameters = METADATA["parameters"] | {"version": "1", "max_pixels": 9, "max_bytes": 99}
    info = decode_metadata(json.dumps(METADATA | {"parameters": parameters}).encode())
    assert (info.version, info.max_pixels, info.max_bytes) == ("1", 9, 99)


def test_metadata_of_release_0_1_0_is_read() -> None:
    content = json.dumps(METADATA).encode()
    info = decode_metadata(content)
    assert (info.version, info.max_pixels, info.max_bytes) == ("2", None, None)
    assert decode_metadata(content, version="1").version == "1"
