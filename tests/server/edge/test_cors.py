"""Pages of listed origins may query the server from a browser; nothing changes for others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from checks import all_requests
from infer_requests import code
from serving import make_bundle, make_settings, png, random_images, running
from stingy_server import Settings
from web_checks import assert_preflights_are_narrow, preflight

pytestmark = pytest.mark.anyio
APP, OTHER = "https://app.example.org", "https://app.example.org.evil.test"
PREDICT, USAGE = "/v1/predict/digits", "/v1/usage"
IMAGE = png(random_images(1)[0])


def settings_of(tmp_path: Path, *origins: str) -> Settings:
    return make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), cors_origins=origins)


def added(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a response that only browsers read."""
    return {k: v for k, v in headers.items() if k.startswith("access-control-") or k == "vary"}


async def test_X1_preflight_is_answered_for_known_routes_alone(tmp_path: Path) -> None:
    async with running(settings_of(tmp_path, APP)) as (client, app):
        del client.headers["Authorization"]
        await assert_preflights_are_narrow(client, all_requests(app), origin=APP, other=OTHER)


async def test_X1_preflight_names_the_headers_of_a_query(tmp_path: Path) -> None:
    async with running(settings_of(tmp_path, APP)) as (client, _):
        del client.headers["Authorization"]
        for path, methods in ((PREDICT, "POST"), (USAGE, "GET")):
            response = await preflight(client, path, methods, APP)
            assert response.status_code == 204
            assert response.content == b""
            assert added(response.headers) == {
                "access-control-allow-origin": APP,
                "access-control-allow-methods": methods,
                "access-control-allow-headers": (
                    "authorization, content-type, inference-header-content-length"
                ),
                "access-control-max-age": "600",
                "vary": "origin",
            }
            assert response.headers["cache-control"] == "no-store"


async def test_X1_options_without_a_requested_method_needs_a_key(tmp_path: Path) -> None:
    async with running(settings_of(tmp_path, APP)) as (client, _):
        del client.headers["Authorization"]
        response = await client.options(PREDICT, headers={"Origin": APP})
        assert code(response) == (401, "unauthenticated")
        twice = [("Origin", APP), ("Origin", APP), ("Access-Control-Request-Method", "POST")]
        response = await client.options(PREDICT, headers=twice)
        assert code(response) == (401, "unauthenticated")


async def test_X2_page_of_a_listed_origin_reads_answers_and_errors(tmp_path: Path) -> None:
    async with running(settings_of(tmp_path, APP, "http://localhost:5173")) as (client, _):
        for origin in (APP, "http://localhost:5173"):
            for response in (
                await client.post(PREDICT, content=IMAGE, headers={"Origin": origin}),
                await client.post(PREDICT, content=b"x", headers={"Origin": origin}),
                await client.get(USAGE, headers={"Origin": origin, "Authorization": "Bearer x"}),
            ):
                exposed = response.headers["access-control-expose-headers"].split(", ")
                assert {"x-request-id", "retry-after", "ratelimit-remaining"} <= {*exposed}
                assert response.headers["access-control-allow-origin"] == origin
                assert "access-control-allow-credentials" not in response.headers
                assert response.headers["vary"] == "origin"


@pytest.mark.parametrize(
    "origin", [None, OTHER, "null", APP.upper(), APP + "/", APP + ":443", "http://app.example.org"]
)
async def test_X2_other_origins_and_none_change_nothing(tmp_path: Path, origin: str | None) -> None:
    given = {} if origin is None else {"Origin": origin}
    async with running(settings_of(tmp_path, APP)) as (client, _):
        with_setting = await answers(client, given)
    async with running(make_settings(tmp_path / "t", tmp_path / "b")) as (client, _):
        assert with_setting == await answers(client, given)


async def answers(client: httpx.AsyncClient, headers: dict[str, str]) -> list[Any]:
    """Return statuses, headers without ids, and the bodies of answers."""
    responses = [
        await client.post(PREDICT, content=IMAGE, headers=headers),
        await client.post(PREDICT, content=b"x", headers=headers),
        await client.options(USAGE, headers=headers | {"Access-Control-Request-Method": "GET"}),
        await client.get("/v2/health/live", headers=headers),
    ]
    return [
        (r.status_code, {k: v for k, v in r.headers.items() if k != "x-request-id"}, len(r.content))
        for r in responses
    ]


async def test_X2_star_lets_any_page_read_without_credentials(tmp_path: Path) -> None:
    async with running(settings_of(tmp_path, "*")) as (client, _):
        for origin in (APP, OTHER, "null"):
            response = await client.post(PREDICT, content=IMAGE, headers={"Origin": origin})
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers
        response = await client.post(
            PREDICT, content=IMAGE, headers={"Origin": OTHER, "Authorization": "Bearer x"}
        )
        assert code(response) == (401, "unauthenticated")


@pytest.mark.parametrize(
    "origins",
    [
        ["app.example.org"],
        ["https://App.example.org"],
        ["https://app.example.org/"],
        ["https://app.example.org/path"],
        ["https://app.example.org:443"],
        ["http://app.example.org:80"],
        ["https://*.example.org"],
        ["null"],
        [""],
        ["*", APP],
        [f"{APP}\r\nX: y"],
    ],
)
def test_origin_that_no_browser_sends_is_a_fault(origins: list[str]) -> None:
    with pytest.raises(ValidationError):
        Settings(cors_origins=origins)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "origin", [APP, "http://localhost:5173", "http://[::1]:3000", "capacitor://localhost"]
)
def test_origin_as_browsers_send_it_is_accepted(origin: str) -> None:
    assert Settings(cors_origins=(origin,)).cors_origins == (origin,)
