"""The fetches of an issuer's keys over HTTP: few, bounded, and without harm from a liar."""

import asyncio
import gzip
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from issuer import DISCOVERY, JWKS, Issuer, make_private, public_jwk, running_issuer
from stingy_server.oidc import key_source
from stingy_server.oidc.key_source import MAX_BYTES, KeySource
from stingy_server.web_settings import OidcSettings

pytestmark = pytest.mark.anyio
KEY = {"key_id": "first", "algorithm": "ES256"}
UNKNOWN = {"key_id": "unknown", "algorithm": "ES256"}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


@asynccontextmanager
async def source_of(settings: OidcSettings) -> AsyncIterator[tuple[KeySource, list[None]]]:
    changes: list[None] = []
    source = KeySource(settings, on_change=lambda: changes.append(None))
    try:
        yield source, changes
    finally:
        await source.close()


async def test_J5_unknown_keys_begin_one_fetch_a_minute(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with source_of(issuer.settings()) as (source, changes):
        found = await asyncio.gather(*[source.find_or_fetch(**KEY) for _ in range(50)])
        assert all(key is not None for key in found)
        for _ in range(50):
            assert await source.find_or_fetch(**UNKNOWN) is None
        assert issuer.requests == [JWKS]
        issuer.add_key("unknown")
        assert await source.find_or_fetch(**UNKNOWN) is None
        monkeypatch.setattr(key_source, "PAUSE_S", 0.0)
        source._next_at = 0.0
        assert await source.find_or_fetch(**UNKNOWN) is not None
        assert issuer.requests == [JWKS, JWKS]
        assert len(changes) == 2


async def test_J5_removed_key_is_unknown_after_the_next_fetch(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_source, "PAUSE_S", 0.0)
    async with source_of(issuer.settings()) as (source, changes):
        assert await source.find_or_fetch(**KEY) is not None
        issuer.privates = {"second": make_private("ES256")}
        monkeypatch.setattr(key_source, "REFRESH_S", 0.0)
        # The old key is served while the fetch that its age begins runs in the background.
        assert await source.find_or_fetch(**KEY) is not None
        async with asyncio.timeout(20):
            while source.find(**KEY) is not None:
                await asyncio.sleep(0.01)
        assert len(changes) == 2


async def test_J5_old_keys_are_not_used(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with source_of(issuer.settings()) as (source, _):
        assert await source.find_or_fetch(**KEY) is not None
        monkeypatch.setattr(key_source, "MAX_AGE_S", -1.0)
        assert source.find(**KEY) is None


async def test_J5_endpoint_that_hangs_costs_a_deadline_and_no_one_else(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_source, "DEADLINE_S", 0.5)
    issuer.hanging = True
    async with source_of(issuer.settings()) as (source, _):
        began = time.monotonic()
        waiting = [asyncio.create_task(source.find_or_fetch(**KEY)) for _ in range(20)]
        longest = 0.0
        while not all(task.done() for task in waiting):
            turn = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - turn)
        assert time.monotonic() - began < 5
        assert longest < 0.25  # the event loop went on meanwhile
        assert [task.result() for task in waiting] == [None] * 20
        assert await source.find_or_fetch(**KEY) is None  # at once
        assert issuer.requests == [JWKS]
        assert caplog.text.count("oidc: expected the issuer's keys within 0.5 s") == 1


SYMMETRIC = json.dumps({"keys": [{"kty": "oct", "kid": "first", "k": "c2VjcmV0"}]}).encode()
GOOD = json.dumps({"keys": [public_jwk(make_private("ES256"), "ES256", kid="first")]}).encode()
LIES = {
    "error": (500, GOOD, {}),
    "redirect": (302, b"", {"Location": "http://127.0.0.1:1/keys"}),
    "page": (200, b"<html>", {}),
    "empty": (200, b"", {}),
    "no keys": (200, b'{"keys": []}', {}),
    "symmetric": (200, SYMMETRIC, {}),
    "large": (200, GOOD + b" " * MAX_BYTES, {}),
    "bomb": (200, gzip.compress(GOOD + b" " * 10**7), {"Content-Encoding": "gzip"}),
    "cut off": (200, GOOD, {"Content-Length": str(len(GOOD) + 100)}),
    "nested": (200, b"[" * 100_000, {}),
}


@pytest.mark.parametrize("lie", LIES)
async def test_J5_endpoint_that_lies_gives_no_key(
    issuer: Issuer, lie: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_source, "DEADLINE_S", 1.0)
    issuer.answers[JWKS] = LIES[lie]
    async with source_of(issuer.settings()) as (source, _):
        with caplog.at_level(logging.ERROR):
            assert await source.find_or_fetch(**KEY) is None
        assert issuer.requests == [JWKS]
        assert "html" not in caplog.text


async def test_J5_failed_fetch_leaves_the_keys_as_they_are(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_source, "PAUSE_S", 0.0)
    async with source_of(issuer.settings()) as (source, changes):
        assert await source.find_or_fetch(**KEY) is not None
        issuer.answers[JWKS] = LIES["error"]
        assert await source.find_or_fetch(**UNKNOWN) is None
        assert source.find(**KEY) is not None
        assert len(changes) == 1


async def test_keys_are_found_through_discovery(issuer: Issuer) -> None:
    async with source_of(issuer.settings(jwks_url=None)) as (source, _):
        assert await source.find_or_fetch(**KEY) is not None
    assert issuer.requests == [DISCOVERY, JWKS]


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://other.example.org", "jwks_uri": "{url}/keys"},
        {"jwks_uri": "{url}/keys"},
        {"issuer": "{url}"},
        {"issuer": "{url}", "jwks_uri": "http://192.0.2.1/keys"},
        {"issuer": "{url}", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "{url}", "jwks_uri": 7},
        [],
    ],
)
async def test_J5_discovery_that_lies_gives_no_key(issuer: Issuer, document: object) -> None:
    body = json.dumps(document).replace("{url}", issuer.url).encode()
    issuer.answers[DISCOVERY] = (200, body, {})
    async with source_of(issuer.settings(jwks_url=None)) as (source, _):
        assert await source.find_or_fetch(**KEY) is None
    assert issuer.requests == [DISCOVERY]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/keys", "https://127.0.0.1:1/keys"])
async def test_J5_endpoint_that_is_gone_gives_no_key(issuer: Issuer, url: str) -> None:
    async with source_of(issuer.settings(jwks_url=url)) as (source, _):
        assert await source.find_or_fetch(**KEY) is None
