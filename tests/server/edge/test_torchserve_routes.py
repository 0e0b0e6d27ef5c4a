"""TorchServe's routes: its requests, the form of its answers, and the limits of every route."""

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from infer_requests import code, used
from serving import make_bundle, make_key, make_settings, png, random_images, running
from stingy_server import Database
from stingy_server.settings import Tier
from stingy_server.store.ledger import Ledger

pytestmark = pytest.mark.anyio
IMAGE = random_images(1)[0]
FILE = png(IMAGE)
ROUTE, VERSION = "/predictions/digits", "/predictions/digits/1"
FORM: dict[str, Any] = {"files": {"data": ("cat.png", FILE, "image/png")}}
WAYS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "body": ("POST", ROUTE, {"content": FILE}),
    "upload": ("PUT", ROUTE, {"content": FILE}),
    "form": ("POST", ROUTE, FORM),
    "body of a version": ("POST", VERSION, {"content": FILE}),
    "form of a version": ("POST", VERSION, FORM),
}


async def scores_of(client: httpx.AsyncClient) -> dict[str, float]:
    """Return what the server's own route says of the image: a score for each label."""
    response = await client.post("/v1/predict/digits", content=FILE)
    (answer,) = response.json()["answers"]
    return {entry["label"]: entry.get("score") for entry in answer["classes"]}


@pytest.mark.parametrize("way", WAYS)
async def test_answer_has_the_labels_that_leave_and_costs_one(tmp_path: Path, way: str) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b", policy="stingy:n=3"))
    method, path, content = WAYS[way]
    async with running(settings) as (client, _):
        response = await client.request(method, path, **content)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert await used(client) == 1
        expected = await scores_of(client)
    assert list(answer) == list(expected)
    assert len(answer) == 3
    assert np.allclose(list(answer.values()), np.exp(list(expected.values())), atol=2e-3)
    with closing(Database(settings.state)) as database:
        entries = [entry for _, entry in Ledger(database).entries() if entry.event == "answer"]
    assert [entry.answered for entry in entries] == [1, 1]
    assert len({entry.pixels for entry in entries}) == 1


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("stingy:n=3,scores=prob", lambda scores: scores),
        ("stingy:n=3", lambda scores: np.exp(scores) / np.exp(scores).sum()),
        ("stingy:n=3,scores=logit", lambda scores: np.exp(scores) / np.exp(scores).sum()),
        ("label", lambda scores: [1.0]),
        ("ranked_labels:n=3", lambda scores: [1.0, 0.0, 0.0]),
        ("stingy:n=3,scores=rank", lambda scores: [1.0, 0.0, 0.0]),
    ],
)
async def test_probabilities_come_from_what_leaves(
    tmp_path: Path, policy: str, expected: Any
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b", policy=policy))
    async with running(settings) as (client, _):
        answer = (await client.post(ROUTE, content=FILE)).json()
        scores = await scores_of(client)
    assert list(answer) == list(scores)
    values = [score for score in scores.values() if score is not None]
    assert np.allclose(list(answer.values()), expected(np.array(values)), atol=1e-6)


async def test_L9_a_tier_makes_this_answer_smaller_too(tmp_path: Path) -> None:
    tiers = {"two": Tier(classes=2), "labels": Tier(classes=1, scores="none")}
    bundle = make_bundle(tmp_path / "b", policy="stingy:n=4")
    settings = make_settings(tmp_path / "s", bundle, tiers=tiers)
    async with running(settings) as (client, _):
        for tier, count in (("two", 2), ("labels", 1)):
            headers = {"Authorization": f"Bearer {make_key(settings.state, tier=tier)}"}
            answer = (await client.post(ROUTE, content=FILE, headers=headers)).json()
            assert len(answer) == count
            assert sum(answer.values()) == pytest.approx(1.0, abs=1e-6)


REFUSED: list[tuple[str, str, dict[str, Any], tuple[int, str]]] = [
    ("POST", "/predictions/unknown", {"content": FILE}, (404, "not_found")),
    ("POST", "/predictions/digits/2", {"content": FILE}, (404, "not_found")),
    ("POST", "/predictions/digits/1/2", {"content": FILE}, (404, "not_found")),
    ("GET", ROUTE, {}, (405, "method_not_allowed")),
    ("POST", ROUTE, {"content": b"x"}, (415, "unsupported_image")),
    ("POST", ROUTE, {"json": {"data": "x"}}, (415, "unsupported_image")),
    ("POST", ROUTE, {"files": {"image": FILE}}, (400, "bad_request")),
    ("POST", ROUTE, {"files": {"data": b"x"}}, (415, "unsupported_image")),
    ("POST", ROUTE, {"files": {"data": FILE[:40]}}, (422, "bad_image")),
    ("POST", ROUTE, {"files": {"data": bytes(200_000)}}, (413, "too_large")),
    ("POST", ROUTE, {"content": FILE, "headers": {"Authorization": ""}}, (401, "unauthenticated")),
]


@pytest.mark.parametrize(("method", "path", "content", "expected"), REFUSED)
async def test_refusal_has_torchserves_form_and_costs_nothing(
    tmp_path: Path, method: str, path: str, content: dict[str, Any], expected: tuple[int, str]
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), max_body_bytes=100_000)
    async with running(settings) as (client, _):
        assert code(await client.request(method, path, **content)) == expected
        assert await used(client) == 0


async def test_H5_file_of_a_form_counts_beside_its_body(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    settings = make_settings(
        tmp_path / "s", bundle, max_body_bytes=60_000, max_held_bytes=60_000, share=10.0
    )
    async with running(settings) as (client, _):
        padded = FILE + bytes(40_000)  # read as the picture alone
        assert (await client.post(ROUTE, content=padded)).status_code == 200
        assert code(await client.post(ROUTE, files={"data": padded})) == (503, "overloaded")
        assert (await client.post(ROUTE, **FORM)).status_code == 200


async def test_form_is_read_on_no_other_route(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        for path in ("/v1/predict/digits", "/v2/models/digits/infer"):
            response = await client.post(path, **FORM)
            assert 400 <= response.status_code < 500
        assert await used(client) == 0


async def test_ping_needs_no_key_and_follows_the_server(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, app):
        del client.headers["Authorization"]
        response = await client.get("/ping")
        assert (response.status_code, response.json()) == (200, {"status": "Healthy"})
        assert (await client.head("/ping")).status_code == 200
        assert code(await client.post("/ping")) == (405, "method_not_allowed")
        app.state.service.draining = True
        response = await client.get("/ping")
        assert (response.status_code, response.json()) == (503, {"status": "Unhealthy"})


async def test_concurrent_requests_of_both_forms_are_charged_once_each(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        requests = [client.request(method, path, **rest) for method, path, rest in WAYS.values()]
        responses = await asyncio.gather(*requests)
        assert {response.content for response in responses} == {responses[0].content}
        assert await used(client) == len(WAYS)
