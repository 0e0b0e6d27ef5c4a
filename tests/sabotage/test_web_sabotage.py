"""One broken part for each group of promises about browsers, certificates and tokens."""

import contextlib
import ssl
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from starlette.types import Scope

from checks import all_requests
from console_pages import assert_closed_to_strangers, make_state, opened
from issuer import Issuer, forge, make_private, public_pem
from serving import make_bundle, make_settings, running
from stingy_server.edge.cors import Cors
from stingy_server.loopback.access import Session
from stingy_server.loopback.guard import LoopbackGuard
from stingy_server.oidc.signing_keys import SigningKey
from stingy_server.oidc.tokens import check_token, read_head
from stingy_server.process.certificate import Certificate
from web_checks import (
    assert_forgeries_are_refused,
    assert_preflights_are_narrow,
    assert_renewed_as_a_pair,
)

APP, OTHER = "https://app.example.org", "https://evil.test"
URL = "https://login.example.org"


class MirroringCors(Cors):
    """Middleware that names whatever origin it is given."""

    def _allowed_origin(self, scope: Scope) -> bytes | None:
        return dict(scope["headers"]).get(b"origin")


class OpenCors(Cors):
    """Middleware that answers every preflight, whatever its address and method."""

    def _preflight(self, scope: Scope) -> frozenset[str]:
        return frozenset({"GET", "POST", "DELETE"})


@pytest.mark.anyio
@pytest.mark.parametrize("broken", [MirroringCors, OpenCors])
async def test_X_middleware_that_answers_too_much_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: type[Cors]
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), cors_origins=(APP,))
    for middleware in (Cors, broken):
        monkeypatch.setattr("stingy_server.app.Cors", middleware)
        async with running(settings) as (_, app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                check = assert_preflights_are_narrow(
                    client, all_requests(app), origin=APP, other=OTHER
                )
                if middleware is Cors:
                    await check
                else:
                    with pytest.raises(AssertionError):
                        await check


class HalfRenewed(Certificate):
    """A certificate that reads its files into the context in use."""

    def renew(self) -> None:
        # Too late: the context has the new certificate without its key.
        with contextlib.suppress(ssl.SSLError):
            self._latest.load_cert_chain(*self._files)


def test_T_renewal_into_the_context_in_use_is_caught(tmp_path: Path) -> None:
    assert_renewed_as_a_pair(Certificate, tmp_path / "a")
    with pytest.raises((AssertionError, ssl.SSLError)):
        assert_renewed_as_a_pair(HalfRenewed, tmp_path / "b")


def test_J_check_that_trusts_a_token_about_itself_is_caught() -> None:
    issuer = Issuer(URL)
    settings = issuer.settings(jwks_url=None)
    private = issuer.privates["first"]
    claims, public = issuer.claims(), public_pem(private)
    good = issuer.token()
    forged = {
        "none": forge({"alg": "none"}, claims, secret=None),
        "confused": forge({"alg": "HS256"}, claims, secret=public),
        "other": issuer.token(private=make_private("ES256")),
        "old": issuer.token(iat=1, exp=2),
    }

    def check(text: str) -> Any:
        read_head(text)
        key = SigningKey("first", frozenset({"ES256"}), private.public_key())
        return check_token(text, key, settings)

    def unsigned(text: str) -> Any:
        return jwt.decode(text, options={"verify_signature": False, "verify_exp": True})

    def timeless(text: str) -> Any:
        return jwt.decode(
            text,
            private.public_key(),
            algorithms=["ES256"],
            audience="stingy",
            options={"verify_exp": False},
        )

    assert_forgeries_are_refused(check, forged.values(), good=good)
    for broken in (unsigned, timeless):
        with pytest.raises(AssertionError):
            assert_forgeries_are_refused(broken, forged.values(), good=good)


class OpenGuard(LoopbackGuard):
    """A guard that takes every request for one of a session."""

    def _session(self, headers: Any) -> Session | None:
        return Session("cookie", "csrf")


@pytest.mark.anyio
async def test_V_guard_that_takes_anybody_in_is_caught(tmp_path: Path) -> None:
    make_state(tmp_path)
    async with opened(tmp_path, signed_in=False) as page:
        await assert_closed_to_strangers(page.client)
    async with opened(tmp_path, signed_in=False, guard=OpenGuard) as page:
        with pytest.raises(AssertionError):
            await assert_closed_to_strangers(page.client)
