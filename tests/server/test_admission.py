"""Admission: a request is charged and has its room before any work is done for it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from checks import assert_refused_unread
from infer_requests import tensor
from serving import make_bundle, make_key, make_settings, png, random_images, running
from stingy_server import ConfigurationError, create_app
from stingy_server.edge import inference, routes, torchserve_routes

pytestmark = pytest.mark.anyio
PREDICT, INFER = "/v1/predict/digits", "/v2/models/digits/infer"
IMAGES = random_images(4)
FILE = png(IMAGES[0])


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.headers["X-Error-Code"]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def binary(datatype: str, values: Any, shape: list[int]) -> tuple[bytes, dict[str, str]]:
    data = values if isinstance(values, bytes) else values.tobytes()
    parameters = {"binary_data_size": len(data)}
    image = {"name": "image", "datatype": datatype, "shape": shape, "parameters": parameters}
    head = orjson.dumps({"inputs": [image]})
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


def part(content: bytes) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n'
    return head + content + b"\r\n--b--\r\n"


LINES = np.zeros((4, 1, 48, 3), np.uint8)  # scaled up, they are many times as large
QUERIES = {
    "picture": (PREDICT, FILE, {}),
    "JSON": (INFER, orjson.dumps(tensor(IMAGES)), {}),
    "scaled": (INFER, *binary("UINT8", LINES, [*LINES.shape])),
    "FP32": (INFER, *binary("FP32", np.zeros((4, 3, 8, 8), "<f4"), [4, 3, 8, 8])),
    "files": (INFER, *binary("BYTES", len(FILE).to_bytes(4, "little") + FILE, [1])),
    "INT64": (INFER, *binary("INT64", IMAGES.astype("<i8"), [*IMAGES.shape])),
    "upload": ("/predictions/digits", FILE, {}),
    "form": (
        "/predictions/digits",
        part(FILE),
        {"Content-Type": "multipart/form-data; boundary=b"},
    ),
}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record each call that turns a body into pixels."""
    calls: list[str] = []

    def record(module: Any, name: str) -> None:
        original = getattr(module, name)

        async def recording(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return await original(*arguments, **options)

        monkeypatch.setattr(module, name, recording)

    record(inference, "read_pixels")
    record(routes, "decode")
    record(torchserve_routes, "_decode_file")
    return calls


@pytest.mark.parametrize("query", QUERIES)
async def test_R1_nothing_is_decoded_before_it_is_charged(
    tmp_path: Path, decoded: list[str], query: str
) -> None:
    path, body, headers = QUERIES[query]
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        for key in (
            make_key(settings.state, budget=0),
            make_key(settings.state, per_day=0),
            make_key(settings.state, rate="1/day"),
        ):
            for _ in range(2):  # the one image of the rate is charged, and then refused
                response = await client.post(path, content=body, headers=headers | bearer(key))
            assert response.status_code in (413, 429)
        refused, decoded[:] = decoded.copy(), []
        answered = await client.post(path, content=body, headers=headers)
        assert answered.status_code == 200
    assert len(refused) == (1 if query in ("picture", "files", "upload", "form") else 0)
    assert len(decoded) == 1


async def test_R1_rate_counts_images_that_do_not_decode(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        key = make_key(settings.state, budget=10, rate="2/hour")
        broken = FILE[: len(FILE) // 2]
        found = [
            refusal(await client.post(PREDICT, content=broken, headers=bearer(key)))[0]
            for _ in range(3)
        ]
        assert found == [422, 422, 429]
        usage = await client.get("/v1/usage", headers=bearer(key))
        assert usage.json()["used"] == 0


async def test_request_larger_than_its_rate_is_a_413_with_the_limit(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        key = make_key(settings.state, rate="3/hour")
        response = await client.post(INFER, json=tensor(IMAGES), headers=bearer(key))
        assert refusal(response) == (413, "too_large")
        assert "at most 3 images" in response.json()["error"]
        assert "retry-after" not in response.headers


@pytest.mark.parametrize("limits", [{"budget": 0}, {"per_day": 0}], ids=str)
async def test_R2_query_of_a_spent_key_is_refused_unread(
    tmp_path: Path, limits: dict[str, Any]
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        client.headers.update(bearer(make_key(settings.state, **limits)))
        await assert_refused_unread(client, PREDICT, code="budget_exhausted")
        usage = await client.get("/v1/usage")
        assert usage.status_code == 200


async def test_R3_request_rate_counts_requests_of_any_outcome(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), request_rate="2/hour")
    async with running(settings) as (client, _):
        own = bearer(make_key(settings.state, request_rate="4/hour"))
        for headers, granted in ((bearer(make_key(settings.state)), 2), (own, 4)):
            posts = [await client.post("/nowhere", headers=headers) for _ in range(granted)]
            assert [refusal(post)[0] for post in posts] == [404] * granted
            refused = await client.post("/nowhere", headers=headers)
            assert refusal(refused) == (429, "rate_limited")
            assert 0 < int(refused.headers["retry-after"]) <= 3600
            client.headers.update(headers)
            await assert_refused_unread(client, PREDICT, code="rate_limited")


def test_request_rate_that_is_no_rate_is_a_fault(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), request_rate="often")
    with pytest.raises(ConfigurationError, match="request_rate"):
        create_app(settings)


def test_body_larger_than_a_share_of_memory_is_a_fault(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    for options in ({"max_held_bytes": 10, "max_body_bytes": 11}, {"share": 0.01}):
        with pytest.raises(ConfigurationError, match="max_held_bytes"):
            create_app(make_settings(tmp_path / "s", bundle, **options))


class Parked:
    """Requests whose bodies have not come, each in a task of its own."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._end = asyncio.Event()
        self.tasks: list[asyncio.Task[httpx.Response]] = []

    async def _body(self, size: int) -> AsyncIterator[bytes]:
        if size:
            yield bytes(size)
        await self._end.wait()

    async def add(self, key: str, *, declared: int = 0, size: int = 0) -> None:
        headers = bearer(key) | ({"Content-Length": str(declared)} if declared else {})
        post = self._client.post(PREDICT, content=self._body(size), headers=headers)
        self.tasks.append(asyncio.create_task(post))
        await asyncio.sleep(0.02)

    async def end(self) -> None:
        self._end.set()
        await asyncio.gather(*self.tasks)

    @property
    def refused(self) -> int:
        return sum(task.done() and task.result().status_code == 503 for task in self.tasks)


@pytest.mark.parametrize(
    ("park", "kept"),
    [({}, 4), ({"declared": 50_000}, 4), ({"size": 50_000}, 4)],
    ids=["places", "declared bytes", "received bytes"],
)
async def test_S3_key_that_parks_requests_leaves_room_for_others(
    tmp_path: Path, park: dict[str, int], kept: int
) -> None:
    limits = {"max_held_bytes": 400_000, "max_body_bytes": 60_000} if park else {}
    settings = make_settings(
        tmp_path / "s", make_bundle(tmp_path / "b"), **limits, max_concurrency=100 if park else 8
    )
    async with running(settings) as (client, _):
        flooding, other = make_key(settings.state), make_key(settings.state)
        parked = Parked(client)
        for _ in range(12):
            await parked.add(flooding, **park)
        assert len(parked.tasks) - parked.refused == kept
        answer = await client.post(PREDICT, content=FILE, headers=bearer(other))
        assert answer.status_code == 200
        await parked.end()
        for _ in range(3):  # and the room comes back
            assert (await client.post(PREDICT, content=FILE)).status_code == 200


async def test_S4_requests_for_a_hung_model_leave_room_for_another(tmp_path: Path) -> None:
    hung = make_bundle(tmp_path / "h", factory="sample_networks:Slow", name="hung", seconds=2.0)
    settings = make_settings(tmp_path / "s", hung, make_bundle(tmp_path / "b"), max_concurrency=16)
    async with running(settings) as (client, _):
        waiting = [
            asyncio.create_task(
                client.post(
                    "/v1/predict/hung", content=FILE, headers=bearer(make_key(settings.state))
                )
            )
            for _ in range(20)
        ]
        await asyncio.sleep(0.5)
        answer = await client.post(PREDICT, content=FILE)
        assert answer.status_code == 200
        assert not all(task.done() for task in waiting)
        codes = [(await task).status_code for task in waiting]
        assert 503 in codes
        assert 200 in codes
