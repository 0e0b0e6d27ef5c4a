"""The keys of a key set: asymmetric ones for signatures are kept, and all others are left out."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from issuer import make_private, public_jwk
from stingy_server.oidc.signing_keys import (
    MAX_KEYS,
    InvalidKeySet,
    SigningKey,
    find_key,
    parse_key_set,
)

GOOD = public_jwk(make_private("ES256"), "ES256", kid="good")
RSA_2048 = public_jwk(make_private("RS256"), "RS256", kid="rsa")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


def parse(*entries: Any) -> tuple[SigningKey, ...]:
    return parse_key_set(json.dumps({"keys": entries}).encode())


@pytest.mark.parametrize("algorithm", ["RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA"])
def test_public_key_checks_the_algorithms_of_its_kind(algorithm: str) -> None:
    (key,) = parse(public_jwk(make_private(algorithm), algorithm, kid="a"))
    assert algorithm in key.algorithms
    assert not any(name.startswith("HS") or name == "none" for name in key.algorithms)
    assert find_key((key,), key_id="a", algorithm=algorithm) is key
    assert find_key((key,), key_id="b", algorithm=algorithm) is None
    assert find_key((key,), key_id="a", algorithm="HS256") is None


def test_J1_named_algorithm_of_a_key_excludes_the_others() -> None:
    (key,) = parse(RSA_2048 | {"alg": "RS256"})
    assert key.algorithms == {"RS256"}
    assert parse(RSA_2048 | {"alg": "HS256"}) == ()
    assert parse(GOOD | {"alg": "ES384"}) == ()


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "a"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "RS256"},
        GOOD | {"use": "enc"},
        GOOD | {"key_ops": ["encrypt"]},
        GOOD | {"kid": 7},
        GOOD | {"crv": "secp256k1"},
        GOOD | {"x": "AAAA"},
        {"kty": "EC"},
        {"kty": ["EC"]},
        RSA_2048 | {"e": "AA"},
        public_jwk(rsa.generate_private_key(65537, 1024), "RS256", kid="short"),  # noqa: S505
        "text",
        None,
    ],
)
def test_J1_entry_of_another_kind_is_left_out(entry: Any) -> None:
    assert [key.key_id for key in parse(entry, GOOD)] == ["good"]


def test_private_members_of_an_entry_are_not_read() -> None:
    private = make_private("ES256")
    (key,) = parse(public_jwk(private, "ES256", d="c2VjcmV0"))
    assert not hasattr(key.key, "private_numbers")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", b'{"keys": 1}', b"\xff", b"[" * 100_000, b"<html>"]
)
def test_J5_other_document_is_no_key_set(content: bytes) -> None:
    with pytest.raises(InvalidKeySet):
        parse_key_set(content)


def test_J5_set_of_too_many_keys_is_refused() -> None:
    assert len(parse(*[{}] * MAX_KEYS)) == 0
    with pytest.raises(InvalidKeySet):
        parse(*[{}] * (MAX_KEYS + 1))


def test_key_that_is_not_named_must_be_the_only_one() -> None:
    other = public_jwk(make_private("ES256"), "ES256", kid="other")
    assert find_key(parse(GOOD), key_id=None, algorithm="ES256") is not None
    assert find_key(parse(GOOD, other), key_id=None, algorithm="ES256") is None
    assert find_key(parse(GOOD, GOOD), key_id="good", algorithm="ES256") is None


@given(st.dictionaries(st.sampled_from(["kty", "kid", "alg", "use", "key_ops", "crv", "x"]), JSON))
def test_J5_odd_entry_is_left_out_and_raises_nothing(entry: dict[str, Any]) -> None:
    keys = parse(GOOD | entry, RSA_2048 | entry)
    assert len(keys) <= 2
