"""Nothing leaves beside the answer: by no route, in no form."""

import itertools
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import generate_latest

from checks import assert_nowhere, assert_plain_headers
from infer_requests import tensor
from leaking import disguises
from sample_networks import canaries
from serving import make_bundle, make_key, make_settings, png, random_images, running
from stingy_server import Database
from stingy_server.store.ledger import Ledger

pytestmark = pytest.mark.anyio
IMAGES = random_images(4)
N, K = 3, 10


async def all_bytes_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture, **bundle: Any) -> bytes:
    """Send many requests and return all bytes that leave, with metrics, ledger and logs."""
    folder = make_bundle(tmp_path / "b", gain=1.0, **bundle)
    settings = make_settings(tmp_path / "s", folder, max_body_bytes=100_000)
    caplog.set_level(logging.DEBUG)
    sent: list[bytes] = []
    async with running(settings, budget=40) as (client, app):
        dense = {"name": "logits", "parameters": {"binary_data": True}}
        requests: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", "/v1/predict/digits", {"content": png(IMAGES[0])}),
            ("POST", "/v2/models/digits/infer", {"json": tensor(IMAGES)}),
            ("POST", "/v2/models/digits/infer", {"json": tensor(IMAGES, outputs=[dense])}),
            (
                "POST",
                "/v2/models/digits/infer",
                {"json": tensor(IMAGES, outputs=[{"name": "features"}])},
            ),
            ("POST", "/v1/predict/digits", {"content": b"x"}),
            ("POST", "/v1/predict/digits", {"content": bytes(200_000)}),
            ("POST", "/v2/models/digits/infer", {"json": tensor(random_images(64))}),
            ("GET", "/v1/usage", {}),
            ("GET", "/docs", {}),
            *(
                ("GET", path.format(model="digits", version="1"), {})
                for path in app.openapi()["paths"]
            ),
        ]
        for method, path, content in requests:
            response = await client.request(method, path, **content)
            sent += [response.content, repr(response.headers).encode()]
        sent.append(str(app.openapi()).encode())
        sent.append(generate_latest(app.state.service.metrics.registry))
    with closing(Database(settings.state)) as database:
        sent += [repr(entry).encode() for _, entry in Ledger(database).entries()]
    sent += [record.getMessage().encode() for record in caplog.records]
    return b"\n".join(sent)


@pytest.mark.parametrize("scores", ["logit", "log_prob"])
async def test_L2_withheld_numbers_are_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scores: str
) -> None:
    sent = await all_bytes_sent(
        tmp_path,
        caplog,
        factory="sample_networks:Canary",
        policy=f"stingy:n={N},scores={scores},decimals=6",
    )
    allowed, withheld = canaries(K)[:N].tolist(), canaries(K)[N:].tolist()
    if scores == "logit":  # the search finds the numbers that are allowed out
        assert all(any(form in sent for form in disguises(value)) for value in allowed)
    logged = (canaries(K) - canaries(K).logsumexp(0)).tolist()
    assert_nowhere([*withheld, *logged], sent)


async def test_L3_logs_and_ledger_of_twins_are_equal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def ledger_rows(folder: Path) -> list[tuple[Any, ...]]:
        with closing(Database(folder / "s")) as database:
            return [
                (e.model, e.version, e.fingerprint, e.images, e.answered, e.bits, e.status, e.event)
                for _, e in Ledger(database).entries()
            ]

    logs = []
    for variant in (1, 2):
        caplog.clear()
        folder = tmp_path / str(variant)
        await all_bytes_sent(
            folder,
            caplog,
            factory="sample_networks:Twin",
            policy=f"stingy:n={N}",
            shared=N,
            variant=variant,
        )
        ours = [r for r in caplog.records if r.name.startswith(("stingy", "uvicorn"))]
        # The head of the ledger's chain depends on the times of the entries.
        ours = [r for r in ours if r.name != "stingy.ledger"]
        logs.append([(r.name, r.levelname, r.getMessage()) for r in ours])
    assert ledger_rows(tmp_path / "1") == ledger_rows(tmp_path / "2")
    assert logs[0] == logs[1]


async def test_L9_no_option_of_a_request_changes_the_answer(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), strict=True)
    options = {"top_k": 10, "temperature": 9, "logit_bias": {"3": 100}, "debug": True, "explain": 1}
    async with running(settings) as (client, _):
        plain = (await client.post("/v2/models/digits/infer", json=tensor(IMAGES))).json()
        single = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
        for name, value in {**options, "policy": "open"}.items():
            document = tensor(IMAGES, **{name: value}, parameters={name: value})
            document["inputs"][0] |= {name: value, "parameters": {name: value}}
            response = await client.post(
                "/v2/models/digits/infer", json=document, params={name: "1"}
            )
            assert response.json() == plain
            repeated = await client.post(
                "/v1/predict/digits",
                content=png(IMAGES[0]),
                params={name: str(value)},
                headers={f"X-{name}": str(value), "Accept": "application/x-numpy"},
            )
            assert repeated.content == single.content


async def test_L10_routes_are_those_of_the_list(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, app):
        routes = sorted(
            f"{method.upper()} {path}"
            for path, methods in app.openapi()["paths"].items()
            for method in methods
        )
        assert routes == (Path(__file__).parent / "routes.txt").read_text().splitlines()
        for path in ("/docs", "/redoc", "/openapi.json", "/metrics", "/explanations/digits"):
            assert (await client.get(path)).status_code == 404


async def test_L11_all_keys_get_the_same_answer(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), strict=True)
    bodies = set()
    async with running(settings) as (client, _):
        for _ in range(3):
            key = make_key(settings.state)
            response = await client.post(
                "/v1/predict/digits",
                content=png(IMAGES[0]),
                headers={"Authorization": f"Bearer {key}"},
            )
            bodies.add(response.content)
    assert len(bodies) == 1


async def test_Q7_same_pixels_have_one_cost_and_digest(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    forms = [png(IMAGES[0]), png(IMAGES[0], compress_level=0), png(IMAGES[0], optimize=True)]
    async with running(settings) as (client, app):
        for form in forms:
            await client.post("/v1/predict/digits", content=form)
        await client.post("/v2/models/digits/infer", json=tensor(IMAGES[:1]))
        entries = [entry for _, entry in Ledger(app.state.service.database).entries()][1:]
    assert len({entry.pixels for entry in entries}) == 1
    assert [entry.answered for entry in entries] == [1] * 4


HOSTILE = {
    "1 MB field": b'{"inputs": "' + b"a" * 1_000_000 + b'"}',
    "depth": b"[" * 100_000 + b"]" * 100_000,
    "NaN": b'{"inputs": [NaN]}',
    "1e400": b'{"inputs": [{"name": "image", "shape": [1e400]}]}',
    "5,000 digits": b'{"inputs": [{"name": "image", "shape": [' + b"9" * 5000 + b"]}]}",
    "duplicate keys": b'{"inputs": [], "inputs": {}}',
    "BOM": b"\xef\xbb\xbf{}",
    "lone surrogate": b'{"id": "\\ud800", "inputs": []}',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
async def test_H9_hostile_json_is_refused_in_few_bytes(tmp_path: Path, content: bytes) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        response = await client.post("/v2/models/digits/infer", content=content)
        assert 400 <= response.status_code < 500
        assert len(response.content) < 300
        assert b"aaa" not in response.content


async def test_H10_every_answer_has_the_plain_headers(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    paths = ("/v2/health/live", "/v2", "/nowhere", "/v1/usage", "/v1/predict/digits")
    async with running(settings) as (client, _):
        responses: list[httpx.Response] = []
        for method, path in itertools.product(("GET", "POST", "OPTIONS"), paths):
            responses.append(await client.request(method, path))
            responses.append(await client.request(method, path, headers={"Authorization": ""}))
    for response in responses:
        assert_plain_headers(response.headers)


async def test_I5_plain_and_noisy_pictures_take_the_same_path(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    noise = np.where(random_images(1)[0] > 127, 255, 0).astype(np.uint8)
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (0, 127, 255)]
    async with running(settings) as (client, _):
        for picture in [*pictures, noise]:
            response = await client.post("/v1/predict/digits", content=png(picture))
            assert response.status_code == 200
            assert len(response.json()["answers"][0]["classes"]) == 2
