"""Tokens: what the claims of a valid one are, and that nothing else is one."""

import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuer import AUDIENCE, Issuer, encode_part, forge, make_private, public_pem
from stingy_server.oidc.signing_keys import SigningKey
from stingy_server.oidc.tokens import (
    MAX_LIFETIME_S,
    Claims,
    InvalidToken,
    check_token,
    read_head,
)
from stingy_server.web_settings import OidcSettings

URL = "https://login.example.org"
ISSUER = Issuer(URL)
SETTINGS = OidcSettings(
    issuer=URL,
    audience=AUDIENCE,
    tier_claim="tier",
    organisation_claim="org",
    organisation_budget=1,
    total_budget=1,
)
NOW = int(time.time())
NAMED: dict[str, Any] = {"tier": "partner", "org": "acme"}


def key_of(issuer: Issuer = ISSUER) -> SigningKey:
    public = issuer.privates["first"].public_key()
    return SigningKey("first", frozenset({issuer.algorithm}), public)


def check(text: str, key: SigningKey | None = None) -> Claims:
    read_head(text)
    return check_token(text, key or key_of(), SETTINGS)


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"])
def test_J1_signed_token_gives_its_claims(algorithm: str) -> None:
    issuer = Issuer(URL, algorithm=algorithm)
    claims = check(issuer.token("alice", **NAMED), key_of(issuer))
    assert claims[::2] == ("alice", "partner")
    assert claims.organisation == "acme"
    assert 590 < claims.expires.timestamp() - time.time() <= 600


def test_J1_audience_may_be_one_of_several() -> None:
    assert check(ISSUER.token(aud=["other", AUDIENCE], **NAMED)).subject == "alice"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://login.example.org.evil.test"},
        {"iss": URL + "/"},
        {"iss": [URL]},
        {"iss": None},
        {"aud": "other"},
        {"aud": [AUDIENCE + "x"]},
        {"aud": []},
        {"aud": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a" * 256},
        {"exp": None},
        {"exp": NOW - 1},
        {"exp": NOW - 20},  # within the skew of clocks
        {"exp": "soon"},
        {"exp": 1e300},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": True},
        {"iat": None},
        {"iat": NOW + 3000, "exp": NOW + 3300},
        {"iat": "now"},
        {"iat": NOW - 10_000},
        {"iat": NOW, "exp": NOW + MAX_LIFETIME_S + 1},
        {"iat": 1e300, "exp": 1e300},
        {"nbf": NOW + 3000},
        {"tier": None},
        {"tier": ["partner"]},
        {"org": None},
        {"org": ""},
        {"org": {"id": 1}},
    ],
)
def test_J1_wrong_claim_makes_a_token_invalid(changes: dict[str, Any]) -> None:
    token = ISSUER.token(**NAMED | changes)
    with pytest.raises(InvalidToken):
        check(token)


def test_J1_lifetime_of_an_hour_is_allowed() -> None:
    assert check(ISSUER.token(iat=NOW, exp=NOW + MAX_LIFETIME_S, **NAMED)).subject == "alice"


def forgeries() -> dict[str, str]:
    claims = ISSUER.claims(**NAMED)
    public = public_pem(ISSUER.privates["first"])
    good = ISSUER.token(**NAMED)
    head, body, signature = good.split(".")
    other = make_private("ES256")
    return {
        "none": forge({"alg": "none"}, claims, secret=None),
        "None": forge({"alg": "None", "kid": "first"}, claims, secret=None),
        "HS256 by the public key": forge({"alg": "HS256", "kid": "first"}, claims, secret=public),
        "HS256 by its lines": forge({"alg": "HS256"}, claims, secret=public.strip()),
        "another key": ISSUER.token(private=other, **NAMED),
        "another algorithm": ISSUER.token(
            private=make_private("RS256"), algorithm="RS256", **NAMED
        ),
        "no signature": f"{head}.{body}.",
        "changed body": f"{head}.{encode_part(b'{}')}.{signature}",
        "changed head": f"{encode_part(b'{}')}.{body}.{signature}",
        "half a signature": f"{head}.{body}.{signature[:40]}",
        "critical extension": ISSUER.token(head={"crit": ["exp"]}, **NAMED),
        "detached body": ISSUER.token(head={"b64": False}, **NAMED),
        "key in the head": ISSUER.token(private=other, head={"jwk": {"kty": "EC"}}, **NAMED),
    }


@pytest.mark.parametrize("name", forgeries())
def test_J1_forged_token_is_invalid(name: str) -> None:
    with pytest.raises(InvalidToken):
        check(forgeries()[name])


@pytest.mark.parametrize(
    "text",
    [
        "..",
        "a.b.c",
        encode_part(b"[" * 3000) + ".e30.x",
        encode_part(b"{" * 3000) + ".e30.x",
        encode_part(b'{"alg": 1}') + ".e30.x",
        encode_part(b'{"alg": "ES256", "kid": 1}') + ".e30.x",
        encode_part(b'{"alg": ["ES256"]}') + ".e30.x",
        encode_part(b"null") + ".e30.x",
        encode_part(b'{"alg": "ES256", "n": ' + b"9" * 5000 + b"}") + ".e30.x",
        "\xe4.\xf6.\xfc",
    ],
)
def test_J1_odd_head_is_invalid_and_raises_nothing_else(text: str) -> None:
    with pytest.raises(InvalidToken):
        check(text)


@given(st.text(max_size=30), st.binary(max_size=60), st.binary(max_size=60))
def test_J1_random_bytes_are_no_token(text: str, head: bytes, body: bytes) -> None:
    for token in (text, f"{encode_part(head)}.{encode_part(body)}.{encode_part(head)}"):
        with pytest.raises(InvalidToken):
            check(token)


def test_J1_odd_body_under_a_good_signature_is_invalid() -> None:
    for body in (b"[]", b"7", b"\xff", b"{", b"[" * 100_000):
        token = jwt.api_jws.encode(body, ISSUER.privates["first"], algorithm="ES256")
        with pytest.raises(InvalidToken):
            check(token)
