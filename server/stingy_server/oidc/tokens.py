"""JSON Web Tokens: what a head names, and the claims behind a valid signature. No I/O.

A token is valid as a whole or not at all. No text of it is in an error.
"""

import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jwt

from stingy_server.oidc.signing_keys import ALGORITHMS, SigningKey
from stingy_server.web_settings import OidcSettings

MAX_LIFETIME_S = 3600
CLOCK_SKEW_S = 30  # that the issuer's clock may be ahead of this one
MAX_CLAIM_LENGTH = 255
REQUIRED = ["iss", "sub", "aud", "exp", "iat"]
# What PyJWT and its JSON parser raise for a text that a stranger made, or for odd claims.
FAULTS = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class InvalidToken(Exception):
    """A token that opens nothing."""


class TokenHead(NamedTuple):
    """The names in the head of a token, which nobody has signed yet."""

    algorithm: str
    key_id: str | None


class Claims(NamedTuple):
    """The claims of a valid token.

    Attributes:
        subject: the issuer's name of the principal.
        expires: the end of the token.
        tier: the name of its tier, if the settings name a claim for it.
        organisation: the name of its organisation, likewise.
    """

    subject: str
    expires: datetime
    tier: str | None
    organisation: str | None


def read_head(text: str) -> TokenHead:
    """Read the head of a token.

    Raises:
        InvalidToken: it has no such head, another algorithm than an asymmetric one, or extensions
            that must be understood.
    """
    try:
        head = jwt.get_unverified_header(text)
    except FAULTS:
        raise InvalidToken from None
    algorithm, key_id = head.get("alg"), head.get("kid")
    if algorithm not in ALGORITHMS or not (key_id is None or isinstance(key_id, str)):
        raise InvalidToken
    if "crit" in head or "b64" in head:
        raise InvalidToken
    return TokenHead(algorithm, key_id)


def check_token(text: str, key: SigningKey, settings: OidcSettings) -> Claims:
    """Check the signature and the claims of a token.

    Raises:
        InvalidToken: its signature is not by this key with one of its algorithms; or its issuer or
            audience is another; or it has expired, is not valid yet, or lives for over an hour; or
            a claim that the settings name is missing.
    """
    try:
        claims = jwt.decode(
            text,
            key.key,
            algorithms=sorted(key.algorithms),
            audience=settings.audience,
            issuer=settings.issuer,
            leeway=CLOCK_SKEW_S,
            options={"require": REQUIRED},
        )
        expires = _read_expiry(claims)
    except FAULTS:
        raise InvalidToken from None
    return Claims(
        subject=_read_text(claims, "sub"),
        expires=expires,
        tier=_read_named(claims, settings.tier_claim),
        organisation=_read_named(claims, settings.organisation_claim),
    )


def _read_expiry(claims: dict[str, Any]) -> datetime:
    expires, issued = _read_time(claims, "exp"), _read_time(claims, "iat")
    if not 0 < expires - issued <= MAX_LIFETIME_S:
        raise InvalidToken
    moment = datetime.fromtimestamp(expires, UTC)
    if moment <= datetime.now(UTC):  # no skew, because a client renews its token before
        raise InvalidToken
    return moment


def _read_time(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidToken
    return float(value)


def _read_named(claims: dict[str, Any], name: str | None) -> str | None:
    return None if name is None else _read_text(claims, name)


def _read_text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CLAIM_LENGTH:
        raise InvalidToken
    return value
