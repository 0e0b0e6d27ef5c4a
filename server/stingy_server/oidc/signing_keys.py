"""The public keys of an issuer, read from its JSON Web Key Set. Only asymmetric ones are kept."""

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jwt
import orjson

MAX_KEYS = 100
RSA_BITS = range(2048, 8193)  # fewer can be factored, and more take long to check
MAX_RSA_EXPONENT = 2**32
# The algorithms of each kind of key, and the members that make it. A private member is never read.
RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
EDWARDS = frozenset({"Ed25519", "Ed448"})
ALGORITHMS = RSA | frozenset(CURVES.values()) | {"EdDSA"}
MEMBERS = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x")}


class InvalidKeySet(Exception):
    """A document that is no JSON Web Key Set."""


class SigningKey(NamedTuple):
    """A public key of an issuer.

    Attributes:
        key_id: the name that a token's head gives it; None if it has none.
        algorithms: the algorithms of signatures that it may check.
        key: the key, as PyJWT takes it.
    """

    key_id: str | None
    algorithms: frozenset[str]
    key: Any


def parse_key_set(content: bytes) -> tuple[SigningKey, ...]:
    """Parse the keys of a JSON Web Key Set. Keys for other purposes are left out.

    Raises:
        InvalidKeySet: it is no such document, or has more than 100 keys.
    """
    try:
        entries = orjson.loads(content)["keys"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise InvalidKeySet("expected a JSON Web Key Set, got another document") from None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise InvalidKeySet(f"expected a list of at most {MAX_KEYS} keys, got another")
    keys = [_parse_key(entry) for entry in entries if isinstance(entry, dict)]
    return tuple(key for key in keys if key is not None)


def find_key(
    keys: tuple[SigningKey, ...], *, key_id: str | None, algorithm: str
) -> SigningKey | None:
    """Return the one key that a token's head names, or None.

    A head without a key's name needs an issuer with one key for its algorithm.
    """
    found = [
        key
        for key in keys
        if algorithm in key.algorithms and (key_id is None or key.key_id == key_id)
    ]
    return found[0] if len(found) == 1 else None


def _parse_key(entry: Mapping[str, Any]) -> SigningKey | None:
    """Return a key, or None if it is no public key that checks signatures."""
    algorithms = _algorithms(entry)
    name = entry.get("alg")
    if name is not None:
        algorithms &= {name} if isinstance(name, str) else set()
    operations = entry.get("key_ops", ["verify"])
    key_id = entry.get("kid")
    if (
        not algorithms
        or entry.get("use", "sig") != "sig"
        or not (isinstance(operations, list) and "verify" in operations)
        or not (key_id is None or isinstance(key_id, str))
    ):
        return None
    members = {name: entry[name] for name in MEMBERS[entry["kty"]] if name in entry}
    with contextlib.suppress(Exception):  # PyJWT and cryptography raise many kinds for a bad key
        key = jwt.PyJWK(members, algorithm=min(algorithms)).key
        if entry["kty"] != "RSA" or _is_sound(key):
            return SigningKey(key_id, frozenset(algorithms), key)
    return None


def _algorithms(entry: Mapping[str, Any]) -> frozenset[str]:
    """Return the algorithms of a kind of key. Symmetric kinds and unknown ones have none."""
    kind, curve = entry.get("kty"), entry.get("crv")
    if not isinstance(curve, str):
        curve = ""
    if kind == "RSA":
        return RSA
    if kind == "EC" and curve in CURVES:
        return frozenset({CURVES[curve]})
    if kind == "OKP" and curve in EDWARDS:
        return frozenset({"EdDSA"})
    return frozenset()


def _is_sound(key: Any) -> bool:
    return key.key_size in RSA_BITS and key.public_numbers().e < MAX_RSA_EXPONENT
