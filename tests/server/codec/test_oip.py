"""The OIP codec: well-formed requests are read exactly, all others are refused by their code."""

import json
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stingy_protection import ScoreForm, SparseLogits
from stingy_server.codec.oip import (
    INLINE_JSON_BYTES,
    MAX_JSON_BYTES,
    MAX_JSON_LISTS,
    MAX_JSON_OBJECTS,
    InferHead,
    count_large_json,
    parse_head,
)
from stingy_server.codec.oip_answers import encode_answer
from stingy_server.codec.oip_tensors import read_files, read_tensor
from stingy_server.errors import (
    BAD_BASE64,
    BAD_REQUEST,
    BAD_TENSOR,
    FLOAT_RANGE,
    INTEGER_RANGE,
    JSON_TOO_LARGE,
    NOT_CLASSIFIED,
    SHARED_MEMORY,
    TOO_MANY_IMAGES,
    UNKNOWN_DATATYPE,
    Refusal,
    ServiceError,
)

IMAGES = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


MAX_IMAGES = 8


def message(tensor: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    image = {"name": "image", "datatype": "UINT8", "shape": [2, 4, 5, 3]}
    return {"inputs": [image | (tensor or {"data": IMAGES.ravel().tolist()})], **rest}


def split(
    document: Any, tail: bytes = b"", *, form: ScoreForm = ScoreForm.LOG_PROB
) -> tuple[InferHead, bytes]:
    """Parse a request's head. Return it with the whole body."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    length = str(len(text)) if tail else None
    body = text + tail
    return parse_head(body, length, form=form, max_images=MAX_IMAGES), body


def images_of(document: Any, tail: bytes = b"") -> Any:
    head, body = split(document, tail)
    return read_files(head, body) if head.datatype == "BYTES" else read_tensor(head, body)


def binary(raw: bytes, **tensor: Any) -> tuple[dict[str, Any], bytes]:
    return message(tensor | {"parameters": {"binary_data_size": len(raw)}}), raw


def files(*contents: bytes) -> bytes:
    return b"".join(len(file).to_bytes(4, "little") + file for file in contents)


@pytest.mark.parametrize("data", [IMAGES.ravel().tolist(), IMAGES.tolist()])
def test_json_data_may_be_flat_or_nested(data: Any) -> None:
    assert np.array_equal(images_of(message({"data": data})), IMAGES)


def test_binary_data_is_read_unchanged() -> None:
    assert np.array_equal(images_of(*binary(IMAGES.tobytes())), IMAGES)


PARAMETERS: list[dict[str, Any] | None] = [
    None,
    {},
    {"sequence_id": 7, "sequence_start": True, "priority": 1, "timeout": 5},
    {"content_type": "np"},
    {"binary_data_size": None, "headers": {"x": [1]}},
]


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_L9_unknown_parameters_change_nothing(parameters: dict[str, Any] | None) -> None:
    document = message({"data": IMAGES.tolist(), "parameters": parameters}, parameters=parameters)
    assert np.array_equal(images_of(document), IMAGES)
    document, raw = binary(IMAGES.tobytes())
    document["inputs"][0]["parameters"] = (parameters or {}) | document["inputs"][0]["parameters"]
    assert np.array_equal(images_of(document, raw), IMAGES)


def test_P5_float_pixels_give_the_same_uint8_pixels() -> None:
    planes = (IMAGES.transpose(0, 3, 1, 2) / 255).astype("<f4")
    shape = list(planes.shape)
    images = images_of(*binary(planes.tobytes(), datatype="FP32", shape=shape))
    assert np.array_equal(images, IMAGES)
    document = {"datatype": "FP32", "shape": shape, "data": planes.astype(float).tolist()}
    assert np.array_equal(images_of(message(document)), IMAGES)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_files_of_a_bytes_tensor_are_separated_unchanged(contents: list[bytes]) -> None:
    document, raw = binary(files(*contents), datatype="BYTES", shape=[len(contents)])
    assert images_of(document, raw) == contents


REFUSED: list[tuple[str, Any, Any]] = [
    ("no JSON", BAD_REQUEST, b"\x00"),
    ("NaN is no JSON", BAD_REQUEST, b'{"inputs": NaN}'),
    ("deep nesting", BAD_REQUEST, b"[" * 100_000),
    ("no inputs", BAD_REQUEST, {}),
    ("two inputs", BAD_REQUEST, {"inputs": message()["inputs"] * 2}),
    ("another name", BAD_REQUEST, message({"name": "x", "data": [1]})),
    ("another type", UNKNOWN_DATATYPE, message({"datatype": "BOOL", "data": [True]})),
    ("a type that is a number", BAD_REQUEST, message({"datatype": 8, "data": [1]})),
    ("no type", BAD_REQUEST, message({"datatype": None, "data": [1]})),
    ("shared memory", SHARED_MEMORY, message({"parameters": {"shared_memory_region": "a"}})),
    (
        "shared memory for an output",
        SHARED_MEMORY,
        message(outputs=[{"name": "scores", "parameters": {"shared_memory_region": "a"}}]),
    ),
    (
        "less than no class",
        NOT_CLASSIFIED,
        message(outputs=[{"name": "indices", "parameters": {"classification": -1}}]),
    ),
    ("neither data nor binary", BAD_REQUEST, message({"data": None})),
    ("a size that is text", BAD_REQUEST, message({"parameters": {"binary_data_size": "1"}})),
    (
        "a size beside data",
        BAD_REQUEST,
        message({"data": [1], "parameters": {"binary_data_size": 1}}),
    ),
    (
        "a size of 0 beside data",
        BAD_REQUEST,
        message({"data": [1], "parameters": {"binary_data_size": 0}}),
    ),
    ("an unknown output", BAD_REQUEST, message(outputs=[{"name": "features"}])),
    ("dense in JSON", BAD_REQUEST, message(outputs=[{"name": "logits"}])),
    ("an output twice", BAD_REQUEST, message(outputs=[{"name": "scores"}] * 2)),
    ("too few values", BAD_TENSOR, message({"data": [1, 2]})),
    ("ragged", BAD_TENSOR, message({"data": [[1, 2], [3]]})),
    ("text", BAD_TENSOR, message({"data": ["a"] * 120})),
    ("fractions", BAD_TENSOR, message({"data": [0.5] * 120})),
    ("truth values", BAD_TENSOR, message({"data": [True] * 120})),
    ("below 0", INTEGER_RANGE, message({"data": [-1] * 120})),
    ("above 255", INTEGER_RANGE, message({"data": [256] * 120})),
    ("huge integers", BAD_TENSOR, message({"data": [10**30] * 120})),
    ("a zero dimension", BAD_TENSOR, message({"shape": [0, 4, 5, 3], "data": []})),
    ("a negative dimension", BAD_TENSOR, message({"shape": [-2, 4, -5, 3], "data": [1]})),
    ("an overflowing shape", BAD_TENSOR, message({"shape": [2, 2**62, 2**62, 3], "data": [1]})),
    ("not RGB", BAD_TENSOR, message({"shape": [2, 4, 5, 1], "data": [1] * 40})),
    ("no base64", BAD_BASE64, message({"datatype": "BYTES", "shape": [1], "data": ["a"]})),
    (
        "above 1",
        FLOAT_RANGE,
        message({"datatype": "FP32", "shape": [1, 3, 1, 1], "data": [2.0] * 3}),
    ),
]


@pytest.mark.parametrize(
    ("refusal", "document"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_malformed_json_request_is_refused_by_its_code(refusal: Any, document: Any) -> None:
    with pytest.raises(ServiceError) as error:
        images_of(document)
    assert error.value.refusal is refusal


@pytest.mark.parametrize(
    ("tensor", "raw"),
    [
        ({}, IMAGES.tobytes()[:-1]),
        ({"datatype": "FP32", "shape": [1, 3, 1, 1]}, np.array([np.nan, 0, 0], "<f4").tobytes()),
        ({"datatype": "FP32", "shape": [1, 3, 1, 1]}, np.array([np.inf, 0, 0], "<f4").tobytes()),
        ({"datatype": "BYTES", "shape": [2]}, files(b"one")),
        ({"datatype": "BYTES", "shape": [1]}, files(b"one", b"two")),
        ({"datatype": "BYTES", "shape": [1]}, files(b"one")[:-1]),
        ({"datatype": "BYTES", "shape": [1]}, b"\xff\xff\xff\xff"),
        ({"datatype": "BYTES", "shape": [1]}, b"\x01"),
        ({"datatype": "BYTES", "shape": [1, 1]}, files(b"one")),
    ],
)
def test_binary_data_that_misfits_its_shape_is_refused(tensor: dict[str, Any], raw: bytes) -> None:
    with pytest.raises(ServiceError) as error:
        images_of(*binary(raw, **tensor))
    assert error.value.refusal.code == "bad_tensor"


def too_many(limit: int) -> Refusal:
    """Return the refusal of more images than this."""
    return ServiceError(TOO_MANY_IMAGES, limit=limit).refusal


TOO_MANY = MAX_IMAGES + 1


@pytest.mark.parametrize(
    ("document", "raw"),
    [
        (message({"shape": [TOO_MANY, 1, 1, 3], "data": [0] * 3 * TOO_MANY}), b""),
        binary(bytes(3 * TOO_MANY), shape=[TOO_MANY, 1, 1, 3]),
        binary(files(*[b""] * TOO_MANY), datatype="BYTES", shape=[TOO_MANY]),
        (b" " * MAX_JSON_BYTES + b"{}", b""),
        (message({"data": [[]] * MAX_JSON_LISTS}), b""),
    ],
    ids=["JSON", "binary", "files", "much JSON", "many lists"],
)
def test_more_images_or_json_than_allowed_are_refused(document: Any, raw: bytes) -> None:
    with pytest.raises(ServiceError) as error:
        images_of(document, raw)
    assert error.value.refusal in (too_many(MAX_IMAGES), JSON_TOO_LARGE)


@pytest.mark.parametrize("size", [(510, 510), (49_800, 5)])
def test_largest_black_picture_in_json_is_accepted(size: tuple[int, int]) -> None:
    black = np.zeros((1, *size, 3), np.uint8)
    image = {"shape": black.shape, "data": black.tolist()}
    document = orjson.dumps(message(image))
    assert 0.99 * MAX_JSON_BYTES < len(document) <= MAX_JSON_BYTES
    assert np.array_equal(images_of(document), black)


def test_H1_brackets_in_binary_data_are_not_counted_as_lists() -> None:
    many = b"[" * (MAX_JSON_LISTS + 1)
    raw = many + bytes(-len(many) % 3)
    pixels = images_of(*binary(raw, shape=[1, 1, len(raw) // 3, 3]))
    assert len(raw) == np.size(pixels)


@pytest.mark.parametrize(
    "data",
    [
        ["x" * 50_000, *[""] * 10_000],
        [[["x" * 50_000]], *[[[""]]] * 10_000],
        [[0]] * 10_000,
    ],
    ids=["strings", "nested strings", "lists"],
)
def test_H1_json_that_is_no_picture_takes_bounded_memory(data: Any) -> None:
    document = json.dumps(message({"data": data})).encode()
    tracemalloc.start()
    try:
        with pytest.raises(ServiceError) as error:
            images_of(document)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.value.refusal is BAD_TENSOR
    assert peak < 40 * len(document)


def test_H1_objects_in_json_are_few() -> None:
    for objects, refusal in ((50, BAD_TENSOR), (65, JSON_TOO_LARGE)):
        with pytest.raises(ServiceError) as error:
            images_of(message({"data": [{"": 0}] * objects}))
        assert error.value.refusal is refusal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"inputs": [{"shape": [3, 4, 5, 3]', 3),
        (b'"shape":[ 8 ]', 8),
        (b'"shape":[9,1,1,3]', too_many(8)),
        (b'"shape":[0,1,1,3]', BAD_REQUEST),
        (b'"shape":[1.5]', BAD_REQUEST),
        (b'"shape":[2], "shape":[1]', BAD_REQUEST),
        (b'"Shape":[2]', BAD_REQUEST),
        (b'"shape":[2]' + b"[" * (MAX_JSON_LISTS + 1), JSON_TOO_LARGE),
        (b'"shape":[2]' + b" " * MAX_JSON_BYTES, JSON_TOO_LARGE),
    ],
)
def test_R1_large_json_is_counted_without_parsing(text: bytes, expected: object) -> None:
    body = text + b" " * (INLINE_JSON_BYTES + 1)
    assert count_large_json(body[:INLINE_JSON_BYTES], None, max_images=8) is None
    if isinstance(expected, int):
        assert count_large_json(body, None, max_images=8) == expected
        assert count_large_json(body + b"[" * 99, str(len(body)), max_images=8) == expected
        assert count_large_json(body, "30", max_images=8) is None
        return
    with pytest.raises(ServiceError) as error:
        count_large_json(body, None, max_images=8)
    assert error.value.refusal == expected


def test_sentence_for_large_json_names_the_limits() -> None:
    for limit in (MAX_JSON_BYTES, MAX_JSON_LISTS, MAX_JSON_OBJECTS):
        assert f" {limit:,} " in JSON_TOO_LARGE.message


@pytest.mark.parametrize("header", ["", "-1", "1e2", "\u0661", "9" * 50, "100000"])
def test_hostile_header_length_is_refused(header: str) -> None:
    with pytest.raises(ServiceError) as error:
        parse_head(json.dumps(message()).encode(), header, form=ScoreForm.LOG_PROB, max_images=9)
    assert error.value.refusal is BAD_REQUEST


@given(st.binary(max_size=300), st.one_of(st.none(), st.text(max_size=6)))
def test_H8_random_bytes_are_refused(body: bytes, header: str | None) -> None:
    with pytest.raises(ServiceError):
        parse_head(body, header, form=ScoreForm.LOG_PROB, max_images=9)


def test_policy_without_scores_offers_indices_alone() -> None:
    assert split(message(), form=ScoreForm.NONE)[0].outputs == (("indices", False),)
    for name in ("scores", "logits"):
        query = {"name": name, "parameters": {"binary_data": True}}
        with pytest.raises(ServiceError):
            split(message(outputs=[query]), form=ScoreForm.NONE)


ANSWER = SparseLogits(
    indices=torch.tensor([[3]]),
    scores=torch.tensor([[-0.5]]),
    num_classes=5,
    form=ScoreForm.LOG_PROB,
    decimals=3,
)


@pytest.mark.parametrize("identifier", [None, "7", 'é"\\', "x" * 128])
def test_heads_that_differ_in_their_id_alone_parse_alike(identifier: str | None) -> None:
    for _ in range(2):  # parsed, then kept
        for extra in ({}, {"unknown": 1}):
            head, _ = split(message() | extra | ({"id": identifier} if identifier else {}))
            assert head.id == identifier
            assert (head.count, head.outputs) == (
                split(message())[0].count,
                split(message())[0].outputs,
            )
            body = encode_answer(
                replace(head, outputs=(("indices", True),)), ANSWER, model="m", version="1"
            )
            document = orjson.loads(body.body[: body.json_length])
            assert document.get("id") == identifier


@pytest.mark.parametrize("identifier", [0, 7, -1, 2**63])
def test_integer_id_is_returned_as_text(identifier: int) -> None:
    for extra in ({}, {"unknown": "x" * 2000}):  # with a head that is kept, and with one too long
        assert split(message() | extra | {"id": identifier})[0].id == str(identifier)


def test_null_in_every_optional_field_is_its_absence() -> None:
    empty = {"id": None, "parameters": None, "outputs": None, "unknown": None}
    tensor = {"data": IMAGES.tolist(), "parameters": None}
    head, _ = split(message(tensor, **empty))
    plain, _ = split(message({"data": IMAGES.tolist()}))
    assert replace(head, length=0) == replace(plain, length=0)
    nulls = {"binary_data_size": None, "shared_memory_region": None}
    requested = [
        {"name": name, "parameters": parameters}
        for name, parameters in (
            ("indices", None),
            ("scores", {"binary_data": None, "classification": None}),
        )
    ]
    rest = {"outputs": requested, "parameters": {"binary_data_output": None}}
    head, _ = split(message({**tensor, "parameters": nulls}, **rest))
    assert replace(head, length=0) == replace(plain, length=0)


@pytest.mark.parametrize("identifier", [1.5, "x" * 129, ["x"], {"a": 1}, True])
def test_id_that_is_no_short_text_is_refused(identifier: object) -> None:
    with pytest.raises(ServiceError):
        split(message() | {"id": identifier})
