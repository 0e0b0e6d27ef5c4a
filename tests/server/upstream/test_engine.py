"""The upstream engine: its requests, its passes, and the answers that it accepts."""

import json
import logging
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from hostile import (
    document,
    says,
    tensor,
    upstream,
)
from serving import png, random_images, running
from stingy_protection import keyed_noise, sanitize
from upstream_edge import CANARY, GOOD, IMAGES, Switched, edge, marked, torchserve

pytestmark = pytest.mark.anyio


async def test_upstream_answer_within_the_policy_is_returned(tmp_path: Path) -> None:
    with upstream(says(GOOD)) as url:
        async with running(edge(tmp_path, url)) as (client, _):
            response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
    (row,) = response.json()["answers"]
    assert [(entry["index"], entry["score"]) for entry in row["classes"]] == [
        (3, -0.105),
        (7, -2.304),
    ]


async def test_binary_tensors_are_read_by_name(tmp_path: Path) -> None:
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


def rows_of(request: bytes) -> int:
    """Return the number of images in a request."""
    return int(request.partition(b'"shape":[')[2].split(b",")[0])


async def test_nothing_a_client_chooses_reaches_the_upstream(tmp_path: Path) -> None:
    def answer_each_row(connection: socket.socket, request: bytes) -> None:
        rows = rows_of(request)
        indices = tensor("indices", "INT64", [rows, 2], [3, 7] * rows)
        scores = tensor("scores", "FP32", [rows, 2], [-0.105, -2.304] * rows)
        says(document(indices, scores))(connection, request)

    switched = Switched(answer_each_row)
    with upstream(switched) as url:
        async with running(edge(tmp_path, url, batch_size=64)) as (client, _):
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
    assert b"stingy_" not in head  # the edge passes no key on
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
async def test_raw_logits_pass_the_gate_at_the_edge(tmp_path: Path, policy: str) -> None:
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


async def test_row_of_logits_that_sums_to_1_by_chance_is_answered(tmp_path: Path) -> None:
    switched = Switched(says(document(tensor("raw", "FP32", [1, 10], LOGITS.ravel().tolist()))))
    tensors = {"datatype": "FP32", "logits": "raw"}
    with upstream(switched) as url:
        async with running(edge(tmp_path, url, tensors=tensors)) as (client, _):
            row = [0.6, 0.4] + [0.0] * 8
            switched.behaviour = says(document(tensor("raw", "FP32", [1, 10], row)))
            response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert response.status_code == 200


async def test_upstream_gets_the_input_of_the_embedded_network(tmp_path: Path) -> None:
    raw_logits = document(tensor("raw", "FP32", [1, 10], [0.0] * 10))
    switched = Switched(says(raw_logits))
    tensors = {"datatype": "FP32", "logits": "raw"}
    with upstream(switched) as url:
        async with running(edge(tmp_path, url, tensors=tensors)) as (client, _):
            await client.post("/v1/predict/digits", content=png(IMAGES[0]))
    sent = np.frombuffer(switched.requests[-1][-8 * 8 * 3 * 4 :], "<f4").reshape(3, 8, 8)
    assert np.array_equal(sent, IMAGES[0].transpose(2, 0, 1).astype(np.float32) / 255)


async def test_large_request_is_split_into_passes(tmp_path: Path) -> None:
    def echo(connection: socket.socket, request: bytes) -> None:
        rows = rows_of(request)
        first = np.frombuffer(request[-rows * 192 :], np.uint8).reshape(rows, 192)[:, 0] % 10
        indices = tensor("indices", "INT64", [rows, 1], first.tolist())
        says(document(indices))(connection, request)

    images = random_images(150)
    switched = Switched(echo)
    with upstream(switched) as url:
        async with running(edge(tmp_path, url, policy="label", batch_size=64)) as (client, _):
            tried = len(switched.requests)
            head = {"name": "image", "datatype": "UINT8", "shape": images.shape}
            request = {"inputs": [{**head, "data": images.ravel().tolist()}]}
            response = await client.post("/v2/models/digits/infer", json=request)
    (output,) = response.json()["outputs"]
    assert output["data"] == (images[:, 0, 0, 0] % 10).tolist()
    assert len(switched.requests) == tried + 3  # 64 + 64 + 22


async def test_torchserve_key_is_reread_and_never_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    switched = Switched(marked(tmp_path))
    key_file = tmp_path / "key_file.json"
    with upstream(switched) as url, caplog.at_level(logging.DEBUG):
        async with running(torchserve(tmp_path, url)) as (client, _):
            tried = len(switched.requests)
            key_file.write_text('{"inference": {"key": "second"}}', "utf-8")
            await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            for broken in ("{", "[]", '{"inference": {}}', '{"inference": {"key": "a\\nb: c"}}'):
                key_file.write_text(broken, "utf-8")
                refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
                assert refused.headers["X-Error-Code"] == "upstream_failed"
            key_file.unlink()
            refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert refused.headers["X-Error-Code"] == "upstream_failed"
    *trial, second = switched.requests
    assert len(trial) == tried
    assert all(b"Authorization: Bearer first\r\n" in request for request in trial)
    assert b"Authorization: Bearer second\r\n" in second
    assert "second" not in caplog.text
