"""Bad answers of an upstream are refused with a code in time, not relayed and not charged."""

import asyncio
import gzip
import json
import logging
import resource
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

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
from serving import png, running
from stingy_server import ConfigurationError, create_app
from upstream_edge import CANARY, GOOD, IMAGES, INDICES, SCORES, Switched, edge, marked, torchserve

pytestmark = pytest.mark.anyio
BAD: dict[str, Behaviour] = {
    "hangs up": hangs_up,
    "resets half way": resets_half_way,
    "sends a gigabyte": floods,
    "an error": says(CANARY.encode(), status="500 Internal Server Error"),
    "status 201": says(GOOD, status="201 Created"),
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
    "logits beside the outputs": says(
        document(INDICES, SCORES, tensor("logits", "FP32", [1, 10], list(range(10))))
    ),
    "logits instead of the outputs": says(
        document(tensor("logits", "FP32", [1, 10], list(range(10))))
    ),
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
    "a class beyond the last": says(document({**INDICES, "data": [3, 10]}, SCORES)),
    "a class twice": says(document({**INDICES, "data": [3, 3]}, SCORES)),
    "swapped order": says(
        document({**INDICES, "data": [7, 3]}, {**SCORES, "data": [-2.304, -0.105]})
    ),
    "scores off the grid": says(document(INDICES, {**SCORES, "data": [-0.1053, -2.304]})),
    "scores that reveal the hidden mass": says(
        document(INDICES, {**SCORES, "data": [-0.505, -2.704]})
    ),
    "scores beyond float32": says(document(INDICES, {**SCORES, "data": [0.0, -1e300]})),
    "a head beyond the answer": says(GOOD, "Inference-Header-Content-Length: 5000"),
    "a head without a length": says(GOOD, "Inference-Header-Content-Length: x"),
    "undeclared bytes": says(GOOD + b"\0" * 8, f"Inference-Header-Content-Length: {len(GOOD)}"),
}


@pytest.mark.parametrize("behaviour", BAD.values(), ids=BAD)
async def test_U3_bad_answer_is_a_502_that_relays_and_costs_nothing(
    tmp_path: Path, behaviour: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    switched = Switched(says(GOOD))
    with upstream(switched) as url, caplog.at_level(logging.DEBUG, "stingy"):
        async with running(edge(tmp_path, url, timeout_s=20.0)) as (client, _):
            switched.behaviour = behaviour
            started = time.monotonic()
            refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert time.monotonic() - started < 15  # long before the timeout
            assert refused.status_code == 502
            assert refused.headers["X-Error-Code"] == "upstream_failed"
            assert CANARY not in refused.text + caplog.text + str(refused.headers)
            assert (await client.get("/v1/usage")).json()["used"] == 0

            switched.behaviour = says(GOOD)  # the next request succeeds
            response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert response.status_code == 200
            assert (await client.get("/v1/usage")).json()["used"] == 1


@pytest.mark.parametrize("behaviour", [hangs, trickles])
async def test_U3_slow_answer_is_a_504_that_costs_nothing(
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
            assert refused.headers["X-Error-Code"] == "upstream_timeout"
            assert (await client.get("/v1/usage")).json()["used"] == 0
            switched.behaviour = says(GOOD)
            response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert response.status_code == 200


async def test_request_beyond_the_queue_is_a_503_that_costs_nothing(tmp_path: Path) -> None:
    switched = Switched(says(GOOD))
    with upstream(switched) as url:
        settings = edge(tmp_path, url).model_copy(update={"queue_images": 1})
        async with running(settings) as (client, _):
            switched.behaviour = hangs
            path, body = "/v1/predict/digits", png(IMAGES[0])
            waiting, refused = await asyncio.gather(
                *(client.post(path, content=body) for _ in range(2))
            )
            assert (waiting.status_code, refused.status_code) == (504, 503)
            assert refused.headers["X-Error-Code"] == "overloaded"
            assert (await client.get("/v1/usage")).json()["used"] == 0
            switched.behaviour = says(GOOD)
            assert (await client.post(path, content=body)).status_code == 200


async def test_U3_lost_upstream_is_a_502_until_it_is_back(tmp_path: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(upstream(says(GOOD)))
        async with running(edge(tmp_path, url)) as (client, _):
            stack.close()
            refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert refused.headers["X-Error-Code"] == "upstream_failed"
            with upstream(says(GOOD), port=urlsplit(url).port or 0):
                response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
                assert response.status_code == 200


async def test_U3_answer_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    switched = Switched(says(GOOD))
    with upstream(switched) as url:
        async with running(edge(tmp_path, url)) as (client, _):
            switched.behaviour = floods
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(3):
                refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
                assert refused.status_code == 502
            growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert growth < 64 * 1024  # KiB


async def test_logits_that_are_not_finite_are_a_502(tmp_path: Path) -> None:
    bad = [1e300, *[0.0] * 9]  # infinite as float32
    tensors = {"logits": "raw"}
    switched = Switched(says(document(tensor("raw", "FP32", [1, 10], [0.0] * 10))))
    with upstream(switched) as url:
        async with running(edge(tmp_path, url, tensors=tensors)) as (client, _):
            switched.behaviour = says(document(tensor("raw", "FP32", [1, 10], bad)))
            refused = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert refused.headers["X-Error-Code"] == "upstream_failed"


async def test_answer_with_another_policy_or_weights_is_refused(tmp_path: Path) -> None:
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


async def test_U3_upstream_beyond_the_policy_is_a_fault_at_start(
    tmp_path: Path,
) -> None:
    with upstream(BAD["all classes"]) as url, pytest.raises(ConfigurationError) as error:
        create_app(edge(tmp_path, url))
    (fault,) = error.value.faults
    assert "digits: the upstream failed on a trial image" in fault
    assert "expected 1..2 entries, got 10" in fault
