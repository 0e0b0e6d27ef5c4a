"""The refusals of an application for a missing key, bad input or a spent budget cost nothing."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checks import all_requests, assert_closed
from infer_requests import IMAGES, code, infer, outputs, used
from sample_networks import NOT_A_NUMBER, POISON
from serving import make_bundle, make_key, make_settings, png, running
from stingy_server import Database, Keys

pytestmark = pytest.mark.anyio
NETWORKS = "sample_networks"
WRONG = (
    *(None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic {key}", "{key}", "Bearer {key}x"),
    *("long", "revoked", "expired", "Bearer ключ"),
)


@pytest.mark.parametrize("authorization", WRONG)
async def test_A1_no_route_opens_without_a_valid_key(
    tmp_path: Path, authorization: str | None
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    key = make_key(settings.state)
    with closing(Database(settings.state)) as database:
        revoked, revoked_text = Keys(database).create("gone", budget=5)
        Keys(database).revoke(revoked.id)
        yesterday = datetime.now(UTC) - timedelta(days=1)
        _, expired_text = Keys(database).create("past", budget=5, expires=yesterday)
    special = {"long": "Bearer " + "x" * 5000, "revoked": f"Bearer {revoked_text}"}
    special["expired"] = f"Bearer {expired_text}"
    async with running(settings) as (client, app):
        del client.headers["Authorization"]
        headers: dict[bytes, bytes] = {}
        if authorization is not None:
            given = special.get(authorization, authorization.format(key=key))
            headers = {b"Authorization": given.encode()}
        await assert_closed(client, all_requests(app), headers)


async def test_A2_second_authorization_or_hostile_host_changes_nothing(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        key = client.headers["Authorization"]
        twice = [("Authorization", key), ("Authorization", key)]
        del client.headers["Authorization"]
        assert code(await client.get("/v1/usage", headers=twice)) == (401, "unauthenticated")
        for host in ("x/v2/health/live?", "x#@y", ""):
            response = await client.get("/v1/usage", headers={"Host": host})
            assert code(response) == (401, "unauthenticated")


async def test_A3_failing_store_is_a_503_and_no_answer(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, app):
        app.state.service.database.close()
        response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
        assert code(response) == (503, "store_unavailable")
        assert "retry-after" in response.headers


async def test_bad_input_has_its_code_and_costs_nothing(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path / "s", make_bundle(tmp_path / "b"), max_body_bytes=100_000, max_request_images=20
    )
    cases: list[tuple[str, bytes, dict[str, str], tuple[int, str]]] = [
        ("/v1/predict/digits", b"hello", {}, (415, "unsupported_image")),
        ("/v1/predict/digits", b"", {}, (415, "unsupported_image")),
        ("/v1/predict/digits", png(IMAGES[0])[:40], {}, (422, "bad_image")),
        ("/v1/predict/digits", bytes(100_001), {}, (413, "too_large")),
        ("/v1/predict/other", png(IMAGES[0]), {}, (404, "not_found")),
        ("/v1/predict/digits", b"", {"Content-Encoding": "gzip"}, (415, "unsupported_encoding")),
        ("/v1/predict/digits", b"", {"Content-Length": "x"}, (400, "bad_request")),
        ("/v2/models/digits/infer", b"{}", {}, (400, "bad_request")),
    ]
    async with running(settings) as (client, _):
        for path, body, headers, expected in cases:
            response = await client.post(path, content=body, headers=headers)
            assert code(response) == expected
            assert len(response.content) < 300
        too_many = np.concatenate([IMAGES, IMAGES])
        assert code(await infer(client, too_many)) == (413, "too_large")
        assert code(await client.get("/v1/predict/digits")) == (405, "method_not_allowed")
        assert code(await client.get("/nowhere")) == (404, "not_found")
        assert await used(client) == 0


async def test_H1_body_is_counted_despite_a_false_content_length(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), max_body_bytes=1000)
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        for _ in range(1000):
            sent += 100
            yield bytes(100)

    async with running(settings) as (client, _):
        response = await client.post("/v1/predict/digits", content=endless())
        assert code(response) == (413, "too_large")
        short = await client.post(
            "/v1/predict/digits", content=bytes(1001), headers={"Content-Length": "5"}
        )
        assert code(short) == (413, "too_large")


async def test_Q3_batch_beyond_the_budget_is_refused_whole(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings, budget=20) as (client, _):
        outputs(await infer(client, IMAGES[:5]))
        assert code(await infer(client, IMAGES)) == (429, "budget_exhausted")
        assert await used(client) == 5
        outputs(await infer(client, IMAGES[:15]))
        for response in (
            await infer(client, IMAGES[:1]),
            await client.post("/v1/predict/digits", content=png(IMAGES[0])),
        ):
            assert code(response) == (429, "budget_exhausted")
        body = (await client.get("/v1/usage")).json()
        assert (body["budget"], body["used"], body["remaining"]) == (20, 20, 0)


async def test_Q4_unanswered_images_are_not_charged(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", factory=f"{NETWORKS}:Fragile")
    settings = make_settings(tmp_path / "s", bundle, queue_images=8)
    poisoned, undefined = IMAGES[:2].copy(), IMAGES[:2].copy()
    poisoned[1, 0, 0, 0] = POISON
    undefined[1, 0, 0, 0] = NOT_A_NUMBER
    async with running(settings) as (client, _):
        assert code(await infer(client, poisoned)) == (500, "internal")
        assert code(await infer(client, undefined)) == (500, "refused")
        overloaded = await infer(client, IMAGES)
        assert code(overloaded) == (503, "overloaded")
        assert overloaded.headers["retry-after"] in {"1", "2", "3"}
        assert await used(client) == 0
