"""Hostile messages are refused by the codes of REST, cost nothing, and take no memory."""

import gc
import resource
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError

from rpc_calls import RpcClient, books, infer_message, rpc_running
from serving import make_bundle, make_key, make_settings, png, random_images
from stingy_server import Settings
from stingy_server.errors import ServiceError
from stingy_server.rpc.arrivals import SLACK_BYTES
from stingy_server.rpc.messages import MESSAGES
from stingy_server.rpc.wire import (
    INLINE_HEAD_BYTES,
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    count_large_head,
    split_request,
)

pytestmark = pytest.mark.anyio
IMAGES = random_images(2)
NAME = b"\x0a\x06digits"  # the field of the model's name
FLOATS = np.ones((2, 3, 8, 8), np.float32)


def settings_of(tmp_path: Path, **options: Any) -> Settings:
    return make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), **options)


def length(nbytes: int) -> bytes:
    """Write a number as protobuf does."""
    parts = []
    while nbytes > 127:
        parts.append(nbytes & 127 | 128)
        nbytes >>= 7
    return bytes([*parts, nbytes])


def field(number: int, content: bytes) -> bytes:
    return length(number << 3 | 2) + length(len(content)) + content


def both_forms() -> bytes:
    """Write a request whose tensor is raw and typed at once."""
    request = MESSAGES["ModelInferRequest"].FromString(infer_message(IMAGES))
    request.inputs[0].contents.uint_contents.extend(IMAGES.ravel().tolist())
    return bytes(request.SerializeToString())


WHOLE = infer_message(IMAGES)
FILE = [png(IMAGES[0])]
CASES = {
    "empty": (b"", "not_found"),
    "cut": (WHOLE[:-1], "bad_request"),
    "group": (NAME + b"\x1b\x1c", "bad_request"),
    "field 0": (NAME + b"\x02\x00", "bad_request"),
    "endless number": (NAME + b"\xff" * 11, "bad_request"),
    "length beyond the end": (NAME + b"\x3a\xff\xff\xff\xff\x0f", "bad_request"),
    "name of no text": (b"\x0a\x02\xff\xfe", "bad_request"),
    "tensor of no message": (NAME + field(5, b"\xff"), "bad_request"),
    "no tensor": (NAME, "bad_request"),
    "two tensors": (WHOLE + field(5, b""), "bad_request"),
    "two raw tensors": (WHOLE + field(7, b"x"), "bad_request"),
    "raw and typed": (both_forms(), "bad_request"),
    "many fields": (NAME + b"\x20\x00" * MAX_FIELDS, "too_large"),
    "many tensors": (NAME + b"\x2a\x00" * 10_000, "too_large"),
    "large head": (NAME + field(3, b"x" * MAX_HEAD_BYTES), "too_large"),
    "long id": (infer_message(IMAGES, id="x" * 129), "bad_request"),
    "no contents": (infer_message(IMAGES[:0], raw=False, shape=[2, 8, 8, 3]), "bad_request"),
    "no shape": (infer_message(IMAGES, shape=[]), "bad_request"),
    "shape too large": (infer_message(IMAGES, shape=[2, 9, 8, 3]), "bad_tensor"),
    "shape too small": (infer_message(IMAGES, shape=[1, 8, 8, 3]), "bad_tensor"),
    "shape of zeros": (infer_message(IMAGES, shape=[0, 0, 0, 3]), "bad_tensor"),
    "negative shape": (infer_message(IMAGES, shape=[-2, -8, 8, 3]), "bad_tensor"),
    "huge shape": (infer_message(IMAGES, shape=[2**62, 2**62, 2**62, 3]), "bad_tensor"),
    "typed shape that lies": (infer_message(IMAGES, raw=False, shape=[2, 9, 8, 3]), "bad_tensor"),
    "many typed images": (infer_message(IMAGES, raw=False, shape=[2**40, 8, 8, 3]), "too_large"),
    "other type": (infer_message(IMAGES, datatype="FP128"), "bad_request"),
    "integers out of range": (
        infer_message(IMAGES.astype(int) + 1000, raw=False),
        "bad_tensor",
    ),
    "floats out of range": (infer_message(FLOATS * 2, datatype="FP32"), "bad_tensor"),
    "not a number": (infer_message(FLOATS * np.nan, datatype="FP32", raw=False), "bad_tensor"),
    "no pictures": (infer_message([b"x" * 9], datatype="BYTES"), "unsupported_image"),
    "fewer files": (infer_message(FILE, datatype="BYTES", shape=[2]), "bad_tensor"),
    "fewer typed files": (
        infer_message(FILE, datatype="BYTES", raw=False, shape=[2]),
        "bad_tensor",
    ),
}


async def test_G3_malformed_message_has_its_code_and_costs_nothing(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, _, app):
        for name, (message, code) in CASES.items():
            ended = await rpc.call("ModelInfer", message)
            assert ended.code == code, name
            assert len(ended.text) < 200
        for _ in range(20):
            assert (await rpc.call("ModelMetadata", b"\xff\x01")).code == "bad_request"
        used, entries = await books(app)
        assert used == 0
        assert sum(entry.requests for entry in entries) == len(CASES)
        assert {entry.event for entry in entries} == {code for _, code in CASES.values()}


async def test_R1_large_contents_are_charged_before_they_are_parsed(tmp_path: Path) -> None:
    shape = MESSAGES["InferInputTensor"](shape=[2, 8, 8, 3]).SerializeToString()
    broken = NAME + field(5, field(1, b"\xff" * INLINE_HEAD_BYTES) + shape)
    assert (len(broken) > INLINE_HEAD_BYTES, parses(broken)) == (True, False)
    async with rpc_running(settings_of(tmp_path), budget=1) as (rpc, _, app):
        assert (await rpc.call("ModelInfer", broken)).code == "budget_exhausted"
        rich = RpcClient(app.state.rpc.port, make_key(app.state.service.settings.state))
        assert (await rich.call("ModelInfer", broken)).code == "bad_request"
        large = infer_message(random_images(2, size=200), raw=False)
        assert (await rpc.call("ModelInfer", large)).code == "budget_exhausted"
        assert (await books(app))[0] == 0
        await rich.channel.close()


def parses(message: bytes) -> bool:
    """Return whether protobuf reads a message."""
    try:
        MESSAGES["ModelInferRequest"].FromString(message)
    except DecodeError:
        return False
    return True


async def test_G3_random_bytes_are_refused_without_an_error_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = np.random.default_rng(0)
    async with rpc_running(settings_of(tmp_path)) as (rpc, _, app):
        for _ in range(100):
            broken = bytearray(
                WHOLE if generator.random() < 0.7 else infer_message(IMAGES, raw=False)
            )
            for place in generator.integers(0, 60, generator.integers(1, 6)):
                broken[place] = generator.integers(256)
            ended = await rpc.call("ModelInfer", bytes(broken))
            assert ended.code in (None, "bad_request", "bad_tensor", "not_found", "too_large")
        answered = sum(entry.answered for entry in (await books(app))[1])
        assert (await books(app))[0] == answered
    assert [line for line in caplog.records if line.name != "stingy.ledger"] == []


async def test_G3_large_message_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    options = {"max_body_bytes": 100_000, "max_held_bytes": 1_000_000}
    async with rpc_running(settings_of(tmp_path, **options)) as (rpc, _, app):
        for nbytes in (100_001, SLACK_BYTES):
            ended = await rpc.call("ModelInfer", NAME + field(7, bytes(nbytes - 10)))
            assert (ended.status, ended.code) == ("RESOURCE_EXHAUSTED", "too_large")
        ended = await rpc.call("ModelMetadata", NAME + field(3, bytes(50_000)))
        assert (ended.status, ended.code) == ("RESOURCE_EXHAUSTED", "too_large")
        before = peak_memory()
        ended = await rpc.call("ModelInfer", NAME + field(7, bytes(50_000_000)))
        assert (ended.status, ended.code) == ("RESOURCE_EXHAUSTED", None)  # of gRPC itself
        assert peak_memory() - before < 130 * 2**20  # the client alone has two copies
        assert (await rpc.call("ModelInfer", WHOLE)).status == "OK"
        used, entries = await books(app)
        assert used == len(IMAGES)
        events = [entry.event for entry in entries for _ in range(entry.requests)]
        assert sorted(events) == ["answer", "cancelled", "too_large", "too_large"]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_G3_compressed_message_is_refused(
    tmp_path: Path, compression: grpc.Compression
) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, _, app):
        message = NAME + field(7, bytes(30_000_000))
        before = peak_memory()
        ended = await rpc.call("ModelInfer", message, compression=compression)
        assert ended.status == "UNIMPLEMENTED"
        assert peak_memory() - before < 20 * 2**20
        assert (await rpc.call("ModelInfer", WHOLE)).status == "OK"
        assert (await books(app))[0] == len(IMAGES)


async def test_large_metadata_is_refused(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, _, _):
        ended = await rpc.call("ServerLive", b"", ("x-large", "x" * 40_000))
        assert ended.status == "RESOURCE_EXHAUSTED"
        assert (await rpc.call("ServerLive")).status == "OK"


@pytest.mark.parametrize(
    "part",
    [b"\x2a\x00", b"\x32\x00", b"\x22\x00", b"\x2a\x02\x22\x00", b"\xa2\x06\x00"],
    ids=["tensors", "outputs", "parameters", "nested", "unknown"],
)
def test_G3_bytes_that_a_parser_would_multiply_are_refused(part: bytes) -> None:
    message = NAME + part * (MAX_HEAD_BYTES // len(part))
    gc.collect()
    before = peak_memory()
    with pytest.raises(ServiceError) as error:
        count_large_head(split_request(message), max_images=8)
    assert error.value.refusal.code == "too_large"
    assert peak_memory() - before < 8 * 2**20


def test_raw_tensors_are_parts_of_the_message() -> None:
    message = split_request(WHOLE)
    (raw,) = message.raw
    assert raw.obj is WHOLE
    assert raw == IMAGES.tobytes()
    assert MESSAGES["ModelInferRequest"].FromString(message.head).inputs[0].name == "image"


def peak_memory() -> int:
    """Return the most memory in bytes that this process has used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
