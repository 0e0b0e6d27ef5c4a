"""An upstream that behaves badly is a coded refusal in time: nothing relayed, nothing charged."""

import asyncio
import gzip
import json
import logging
import resource
import socket
import struct
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

from hostile import (
    Behaviour,
    document,
    floods,
    hangs,
    hangs_up,
    resets_half_way,
    says,
    tensor,
    trickles,
    upstream,
)
from serving import make_bundle, make_settings, png, random_images, running
from stingy_protection import build_policy, keyed_noise, parse_policy, read_manifest, sanitize
from stingy_server import ConfigurationError, ModelSettings, Settings, create_app
from stingy_server.identity import FINGERPRINT_HEADER, model_fingerprint
from stingy_server.settings import TensorSettings

pytestmark = pytest.mark.anyio
IMAGES = random_images(2)
CANARY = "upstream-text-4711"
INDICES = tensor("indices", "INT64", [1, 2], [3, 7])
SCORES = tensor("scores", "FP32", [1, 2], [-0.105, -2.304])
GOOD = document(INDICES, SCORES)


class Switched:
    """An upstream that answers well until the test says otherwise."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[bytes] = []

    def __call__(self, connection: socket.socket, request: bytes) -> None:
        self.requests.append(request)
        self.behaviour(connection, request)


def edge(tmp_path: Path, url: str, *, policy: str = "stingy:n=2", **options: Any) -> Settings:
    """Settings of an edge that has no weights."""
    bundle = make_bundle(tmp_path / "bundle", policy=policy)
    (bundle / "weights.safetensors").unlink()
    tensors = TensorSettings(**options.pop("tensors", {}))
    options = {"timeout_s": 1.0, **options}
    model = ModelSettings(bundle=bundle, engine="oip", url=url, tensors=tensors, **options)
    return make_settings(tmp_path / "state", model)


BAD: dict[str, Behaviour] = {
    "hangs up": hangs_up,
    "resets half way": resets_half_way,
    "sends a gigabyte": floods,
    "an error": says(CANARY.encode(), status="500 Internal Server Error"),
    "an answer that says 201": says(GOOD, status="201 Created"),
    "a redirect": says(b"", f"Location: http://{CANARY}/", status="307 Temporary Redirect"),
    "no HTTP": lambda connection, request: connection.sendall(CANARY.encode() * 100),
    "an endless head": lambda connection, request: connection.sendall(
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 2**20
    ),
    "compressed": says(gzip.compress(GOOD), "Content-Encoding: gzip"),
    "no JSON": says(b'{"outputs": ['),
    "NaN in JSON": says(GOOD.replace(b"-2.304", b"NaN")),
    "null in JSON": says(GOOD.replace(b"-2.304", b"null")),
    "deep JSON": says(b"[" * 50_000),
    "another document": says(json.dumps({"error": CANARY}).encode()),
    "no outputs": says(document()),
    "one output": says(document(INDICES)),
    "an output twice": says(document(INDICES, SCORES, SCORES)),
    "logits beside them": says(
        document(INDICES, SCORES, tensor("logits", "FP32", [1, 10], list(range(10))))
    ),
    "logits in their place": says(document(tensor("logits", "FP32", [1, 10], list(range(10))))),
    "three classes": says(
        document(
            tensor("indices", "INT64", [1, 3], [3, 7, 1]),
            tensor("scores", "FP32", [1, 3], [-0.2, -2.304, -2.502]),
        )
    ),
    "all classes": says(
        document(
            tensor("indices", "INT64", [1, 10], list(range(10))),
            tensor("scores", "FP32", [1, 10], [-2.303] * 10),
        )
    ),
    "another number of rows": says(
        document(
            tensor("indices", "INT64", [2, 2], [3, 7, 3, 7]),
            tensor("scores", "FP32", [2, 2], [-0.105, -2.304, -0.105, -2.304]),
        )
    ),
    "no rows": says(
        document(
            tensor("indices", "INT64", [0, 2], []),
            tensor("scores", "FP32", [0, 2], []),
        )
    ),
    "a negative shape": says(document({**INDICES, "shape": [1, -2]}, SCORES)),
    "a shape that does not fit": says(document({**INDICES, "shape": [1, 1]}, SCORES)),
    "another datatype": says(document({**INDICES, "datatype": "INT32"}, SCORES)),
    "text for numbers": says(document({**INDICES, "data": ["3", "7"]}, SCORES)),
    "ragged numbers": says(document({**INDICES, "data": [[3], [7, 1]]}, SCORES)),
    "neither data nor bytes": says(document({**INDICES, "data": None}, SCORES)),
    "a class that is not there": says(document({**INDICES, "data": [3, 10]}, SCORES)),
    "a class twice": says(document({**INDICES, "data": [3, 3]}, SCORES)),
    "swapped order": says(
        document({**INDICES, "data": [7, 3]}, {**SCORES, "data": [-2.304, -0.105]})
    ),
    "scores off the grid": says(document(INDICES, {**SCORES, "data": [-0.1053, -2.304]})),
    "scores that tell the hidden mass": says(
        document(INDICES, {**SCORES, "data": [-0.505, -2.704]})
    ),
    "scores beyond float32": says(document(INDICES, {**SCORES, "data": [0.0, -1e300]})),
    "a head beyond the answer": says(GOOD, "Inference-Header-Content-Length: 5000"),
    "a head without a length": says(GOOD, "Inference-Header-Content-Length: x"),
    "bytes that nobody declared": says(
        GOOD + b"\0" * 8, f"Inference-Header-Content-Length: {len(GOOD)}"
    ),
}


@pytest.mark.parametrize("behaviour", BAD.values(), ids=BAD)
async def test_U3_a_bad_answer_is_a_502_that_relays_and_costs_nothing(
    tmp_path: Path, behaviour: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    switched = Switched(says(GOOD))
    with upstream(switched) as url, caplog.at_level(logging.DEBUG, "stingy"):
        async with running(edge(tmp_path, url, timeout_s=20.0)) as (client, _):
            switched.behaviour = behaviour
            started = time.monotonic()
            refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert time.monotonic() - started < 15  # it is not waited for until the timeout
            assert refused.status_code == 502
            assert refused.json()["error"]["code"] == "upstream_failed"
            assert CANARY not in refused.text + caplog.text + str(refused.headers)
            assert (await client.get("/v1/usage")).json()["used"] == 0

            switched.behaviour = says(GOOD)  # and the next request is none the worse
            response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert response.status_code == 200
            assert (await client.get("/v1/usage")).json()["used"] == 1


@pytest.mark.parametrize("behaviour", [hangs, trickles])
async def test_U3_a_slow_answer_is_a_504_that_costs_nothing(
    tmp_path: Path, behaviour: Behaviour
) -> None:
    switched = Switched(says(GOOD))
    with upstream(switched) as url:
        async with running(edge(tmp_path, url)) as (client, _):
            switched.behaviour = behaviour
            started = time.monotonic()
            refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert 0.9 < time.monotonic() - started < 30  # the upstream would take a minute
            assert refused.status_code == 504
            assert refused.json()["error"]["code"] == "upstream_timeout"
            assert (await client.get("/v1/usage")).json()["used"] == 0
            switched.behaviour = says(GOOD)
            response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert response.status_code == 200


async def test_more_than_may_wait_is_a_503_that_costs_nothing(tmp_path: Path) -> None:
    switched = Switched(says(GOOD))
    with upstream(switched) as url:
        settings = edge(tmp_path, url).model_copy(update={"queue_images": 1})
        async with running(settings) as (client, _):
            switched.behaviour = hangs
            path, body = "/v1/predict/digits", png(IMAGES[0])
            waits, refused = await asyncio.gather(
                *(client.post(path, content=body) for _ in range(2))
            )
            assert (waits.status_code, refused.status_code) == (504, 503)
            assert refused.json()["error"]["code"] == "overloaded"
            assert (await client.get("/v1/usage")).json()["used"] == 0
            switched.behaviour = says(GOOD)
            assert (await client.post(path, content=body)).status_code == 200


async def test_U3_an_upstream_that_is_gone_is_a_502_until_it_is_back(tmp_path: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(upstream(says(GOOD)))
        async with running(edge(tmp_path, url)) as (client, _):
            stack.close()
            refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert refused.json()["error"]["code"] == "upstream_failed"
            with upstream(says(GOOD), port=urlsplit(url).port or 0):
                response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
                assert response.status_code == 200


async def test_U3_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    switched = Switched(says(GOOD))
    with upstream(switched) as url:
        async with running(edge(tmp_path, url)) as (client, _):
            switched.behaviour = floods
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(3):
                refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
                assert refused.status_code == 502
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < 64 * 1024  # KiB


async def test_what_the_upstream_tells_within_the_policy_is_the_answer(tmp_path: Path) -> None:
    with upstream(says(GOOD)) as url:
        async with running(edge(tmp_path, url)) as (client, _):
            response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
    (row,) = response.json()["answers"]
    assert [(entry["index"], entry["score"]) for entry in row["classes"]] == [
        (3, -0.105),
        (7, -2.304),
    ]


async def test_tensors_are_read_by_name_in_binary_too(tmp_path: Path) -> None:
    tail = struct.pack("<2f2q", -0.105, -2.304, 3, 7)
    head = document(
        {"name": "scores", "datatype": "FP32", "shape": [1, 2]}
        | {"parameters": {"binary_data_size": 8}},
        {"name": "indices", "datatype": "INT64", "shape": [1, 2]}
        | {"parameters": {"binary_data_size": 16}},
    )
    binary = says(head + tail, f"Inference-Header-Content-Length: {len(head)}")
    switched = Switched(binary)
    with upstream(switched) as url:
        async with running(edge(tmp_path, url)) as (client, _):
            response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert response.json()["answers"][0]["classes"][0]["index"] == 3
            switched.behaviour = says(
                head + tail[:-1], f"Inference-Header-Content-Length: {len(head)}"
            )
            refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert refused.status_code == 502


async def test_nothing_a_client_chooses_reaches_the_upstream(tmp_path: Path) -> None:
    two = document(
        tensor("indices", "INT64", [2, 2], [3, 7, 3, 7]),
        tensor("scores", "FP32", [2, 2], [-0.105, -2.304] * 2),
    )
    switched = Switched(says(GOOD))
    with upstream(switched) as url:
        async with running(edge(tmp_path, url)) as (client, _):
            switched.behaviour = says(two)
            request = {
                "id": CANARY,
                "parameters": {"binary_data_output": False, CANARY: 1},
                "inputs": [
                    {
                        "name": "image",
                        "datatype": "UINT8",
                        "shape": IMAGES.shape,
                        "data": IMAGES.ravel().tolist(),
                    }
                ],
                "outputs": [{"name": "indices", "parameters": {"classification": 10}}],
            }
            response = await client.post("/v2/models/digits/infer", json=request)
            assert response.status_code == 200
    sent = switched.requests[-1]
    head, _, body = sent.partition(b"\r\n\r\n")
    assert CANARY.encode() not in sent
    assert b"stingy_" not in head  # no key travels on
    length = int(head.lower().partition(b"inference-header-content-length:")[2].split()[0])
    assert json.loads(body[:length]) == {
        "inputs": [
            {
                "name": "image",
                "datatype": "UINT8",
                "shape": [2, 8, 8, 3],
                "parameters": {"binary_data_size": IMAGES.nbytes},
            }
        ],
        "outputs": [
            {"name": "indices", "parameters": {"binary_data": True}},
            {"name": "scores", "parameters": {"binary_data": True}},
        ],
    }
    assert body[length:] == IMAGES.tobytes()


LOGITS = np.random.default_rng(1).normal(0, 3, (1, 10)).astype(np.float32)


@pytest.mark.parametrize("policy", ["stingy:n=2", "label", "keyed_noise"])
async def test_raw_logits_pass_the_gate_here(tmp_path: Path, policy: str) -> None:
    raw_logits = document(tensor("raw", "FP32", [1, 10], LOGITS.ravel().tolist()))
    tensors = {"input": "x", "datatype": "FP32", "logits": "raw", "binary": False}
    with upstream(says(raw_logits)) as url:
        settings = edge(tmp_path, url, policy=policy, tensors=tensors)
        async with running(settings) as (client, app):
            response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            secret = app.state.service.database.pepper
            gate = next(iter(app.state.service.fleet)).policy
    pixels, logits = torch.from_numpy(IMAGES[:1].copy()), torch.from_numpy(LOGITS)
    noise = keyed_noise(secret, pixels, 10) if policy == "keyed_noise" else None
    expected = sanitize(gate, logits, noise=noise)
    (row,) = response.json()["answers"]
    assert [entry["index"] for entry in row["classes"]] == expected.indices[0].tolist()


async def test_logits_that_are_not_numbers_are_a_502(tmp_path: Path) -> None:
    bad = [1e300, *[0.0] * 9]  # infinite as float32
    tensors = {"logits": "raw"}
    switched = Switched(says(document(tensor("raw", "FP32", [1, 10], [0.0] * 10))))
    with upstream(switched) as url:
        async with running(edge(tmp_path, url, tensors=tensors)) as (client, _):
            switched.behaviour = says(document(tensor("raw", "FP32", [1, 10], bad)))
            refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert refused.json()["error"]["code"] == "upstream_failed"


async def test_the_input_is_the_one_the_embedded_network_gets(tmp_path: Path) -> None:
    raw_logits = document(tensor("raw", "FP32", [1, 10], [0.0] * 10))
    switched = Switched(says(raw_logits))
    tensors = {"datatype": "FP32", "logits": "raw"}
    with upstream(switched) as url:
        async with running(edge(tmp_path, url, tensors=tensors)) as (client, _):
            await client.post("/v1/predict/digits", content=png(IMAGES[0]))
    sent = np.frombuffer(switched.requests[-1][-8 * 8 * 3 * 4 :], "<f4").reshape(3, 8, 8)
    assert np.array_equal(sent, IMAGES[0].transpose(2, 0, 1).astype(np.float32) / 255)


@pytest.mark.parametrize("engine", ["oip", "torchserve"])
async def test_P5_P6_strict_that_an_engine_cannot_keep_is_a_fault(
    tmp_path: Path, engine: Literal["oip", "torchserve"]
) -> None:
    bundle = make_bundle(tmp_path / "bundle", policy="stingy:n=2")
    with upstream(says(GOOD)) as url:
        model = ModelSettings(bundle=bundle, engine=engine, url=url, timeout_s=1.0)
        with pytest.raises(ConfigurationError) as error:
            create_app(make_settings(tmp_path / "state", model, strict=True))
    assert any(
        fault.startswith(f"digits: strict cannot be kept by the engine {engine}:")
        for fault in error.value.faults
    )


async def test_a_large_request_goes_in_passes(tmp_path: Path) -> None:
    def echo(connection: socket.socket, request: bytes) -> None:
        rows = int(request.partition(b'"shape":[')[2].split(b",")[0])
        first = np.frombuffer(request[-rows * 192 :], np.uint8).reshape(rows, 192)[:, 0] % 10
        indices = tensor("indices", "INT64", [rows, 1], first.tolist())
        says(document(indices))(connection, request)

    images = random_images(150)
    switched = Switched(echo)
    with upstream(switched) as url:
        async with running(edge(tmp_path, url, policy="label")) as (client, _):
            head = {"name": "image", "datatype": "UINT8", "shape": images.shape}
            request = {"inputs": [{**head, "data": images.ravel().tolist()}]}
            response = await client.post("/v2/models/digits/infer", json=request)
    (output,) = response.json()["outputs"]
    assert output["data"] == (images[:, 0, 0, 0] % 10).tolist()
    assert len(switched.requests) == 1 + 3  # the trial, and 64 + 64 + 22


def torchserve(tmp_path: Path, url: str) -> Settings:
    """Settings of an edge before TorchServe, with a key file."""
    (tmp_path / "key_file.json").write_text('{"inference": {"key": "first"}}', "utf-8")
    model = ModelSettings(
        bundle=make_bundle(tmp_path / "bundle", policy="stingy:n=2"),
        engine="torchserve",
        url=url,
        key_file=tmp_path / "key_file.json",
    )
    return make_settings(tmp_path / "state", model)


def marked(tmp_path: Path, policy: str = "stingy:n=2", *, sha256: str | None = None) -> Behaviour:
    """An answer that says which policy and weights it was made with."""
    manifest = read_manifest(make_bundle(tmp_path / "marked", policy=policy))
    name, options = parse_policy(policy)
    made = model_fingerprint(
        replace(manifest, sha256=sha256 or manifest.sha256),
        build_policy(name, num_classes=10, **options),
    )
    return says(GOOD, f"{FINGERPRINT_HEADER}: {made}")


async def test_an_answer_made_with_another_policy_or_other_weights_is_refused(
    tmp_path: Path,
) -> None:
    switched = Switched(marked(tmp_path))
    with upstream(switched) as url:
        async with running(torchserve(tmp_path, url)) as (client, _):
            for behaviour, status in [
                (marked(tmp_path), 200),
                (marked(tmp_path, "stingy:n=3"), 502),
                (marked(tmp_path, sha256="0" * 64), 502),
                (says(GOOD), 502),
            ]:
                switched.behaviour = behaviour
                reply = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
                assert reply.status_code == status


async def test_torchserves_key_is_read_anew_and_goes_nowhere_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    switched = Switched(marked(tmp_path))
    key_file = tmp_path / "key_file.json"
    with upstream(switched) as url, caplog.at_level(logging.DEBUG):
        async with running(torchserve(tmp_path, url)) as (client, _):
            key_file.write_text('{"inference": {"key": "second"}}', "utf-8")
            await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            for broken in ("{", "[]", '{"inference": {}}', '{"inference": {"key": "a\\nb: c"}}'):
                key_file.write_text(broken, "utf-8")
                refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
                assert refused.json()["error"]["code"] == "upstream_failed"
            key_file.unlink()
            refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert refused.json()["error"]["code"] == "upstream_failed"
    first, second = switched.requests
    assert b"Authorization: Bearer first\r\n" in first
    assert b"Authorization: Bearer second\r\n" in second
    assert "second" not in caplog.text


async def test_U3_an_upstream_that_tells_too_much_is_refused_before_listening(
    tmp_path: Path,
) -> None:
    with upstream(BAD["all classes"]) as url, pytest.raises(ConfigurationError) as error:
        create_app(edge(tmp_path, url))
    (fault,) = error.value.faults
    assert "digits: the upstream failed on a trial image" in fault
    assert "expected 1..2 entries, got 10" in fault


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"engine": "oip"}, "expected a url for the engine oip, got none"),
        ({"url": "http://h/x"}, "expected no url for the engine embedded, got one"),
        ({"engine": "oip", "url": "http://h/x", "key_file": "k"}, "expected no key_file"),
        ({"tensors": TensorSettings()}, "expected no tensors for the engine embedded"),
    ],
)
def test_settings_that_do_not_fit_the_engine_are_faults(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    model = ModelSettings(bundle=make_bundle(tmp_path / "b"), **changes)
    with pytest.raises(ConfigurationError, match=fault):
        create_app(make_settings(tmp_path / "s", model))


@pytest.mark.parametrize("url", ["ftp://h/x", "http://h", "http://user:key@h/x", "http://h/x?y=1"])
def test_only_plain_addresses_are_taken(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        ModelSettings(bundle=tmp_path, engine="oip", url=url)
