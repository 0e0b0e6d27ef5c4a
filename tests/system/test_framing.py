"""The same bytes in other segments have the same verdict and the same effect on a real server."""

import json
from collections.abc import Sequence

import httpx
import pytest

from raw_http import head
from segments import bytewise, cut, random_places, replies
from serving import png, random_images

IMAGE = png(random_images(1)[0])
LAST = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKED_IMAGE = b"%x\r\n%b\r\n0\r\n" % (len(IMAGE), IMAGE)
NO_KEY = b"POST /v1/predict/digits HTTP/1.1\r\nHost: x\r\n"
LENGTH = f"Content-Length: {len(IMAGE)}"
CHUNKED = "Transfer-Encoding: chunked"


def odd_requests(key: str) -> dict[str, bytes]:
    """Return odd requests by name. No more than one of a name is charged."""
    bearer = f"Authorization: Bearer {key}\r\n".encode()
    trailers = b"Inference-Header-Content-Length: 9\r\nContent-Encoding: gzip\r\n"
    tiny_chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in IMAGE)
    next_request = b"GET / HTTP/9\r\n\r\n"

    def chunked(*parts: bytes) -> bytes:
        return head(key, CHUNKED) + b"\r\n" + b"".join(parts)

    def keyless(*parts: bytes) -> bytes:
        return NO_KEY + CHUNKED.encode() + b"\r\n\r\n" + b"".join(parts)

    def whole(*fields: str) -> bytes:
        return head(key, *fields, LENGTH) + b"\r\n" + IMAGE

    return {
        "plain": whole(),
        "chunked": chunked(CHUNKED_IMAGE, b"\r\n"),
        "tiny chunks": chunked(tiny_chunks, b"0\r\n\r\n"),
        "key in a trailer": keyless(CHUNKED_IMAGE, bearer, b"\r\n"),
        "headers in trailers": chunked(CHUNKED_IMAGE, trailers, b"\r\n"),
        "extensions": chunked(CHUNKED_IMAGE.replace(b"\r\n", b";a=b\r\n", 1), b"\r\n"),
        "broken chunk": chunked(b"3\r\nabc!!0\r\n\r\n"),
        "broken chunk without a key": keyless(b"3\r\nabc!!"),
        "broken trailer": chunked(CHUNKED_IMAGE, b"no colon\r\n\r\n"),
        "broken second request": whole() + next_request,
        "no host": b"GET / HTTP/1.1\r\n\r\n",
        "two hosts": whole("Host: y"),
        "HTTP/1.0": b"GET /v2/health/live HTTP/1.0\r\n\r\n",
        "HTTP/2.0": whole().replace(b"1.1", b"2.0", 1),
        "two lengths": whole(LENGTH),
        "length and chunked": head(key, LENGTH, CHUNKED) + b"\r\n" + CHUNKED_IMAGE + b"\r\n",
        "compressed twice": whole("Content-Encoding: identity", "Content-Encoding: gzip"),
        "two keys": whole("Authorization: Bearer x"),
        "expect": whole("Expect: 100-continue"),
        "upgrade": whole("Connection: Upgrade", "Upgrade: h2c"),
        "empty lines": b"\r\n\r\n\r\n" + whole() + b"\r\n",
        "bare line feeds": head(key, LENGTH).replace(b"\r\n", b"\n") + b"\r\n\r\n" + IMAGE,
        "too long": whole("A: " + "b" * 17_000),
        "101 headers": whole(*["A: b"] * 100),
        "closed": whole("Connection: close") + next_request,
    }


def verdict(url: str, key: str, segments: Sequence[bytes]) -> tuple[list[object], int]:
    """Return the status and code of each reply, and the images charged."""
    before = used(url, key)
    found: list[object] = []
    for status, body in replies(url, segments, pause_s=0.001 if len(segments) < 10 else 0.0):
        code = json.loads(body)["error"]["code"] if status >= 400 else ""
        found.append((status, code))
    return found, used(url, key) - before


def used(url: str, key: str) -> int:
    response = httpx.get(f"{url}/v1/usage", headers={"Authorization": f"Bearer {key}"})
    return int(response.json()["used"])


@pytest.mark.parametrize("name", odd_requests("key"))
def test_C2_segments_change_no_verdict_and_no_charge(server: tuple[str, str], name: str) -> None:
    url, key = server
    data = odd_requests(key)[name] + LAST
    whole = verdict(url, key, [data])
    assert whole[0], "no reply"
    if len(data) < 5000:  # more would come byte by byte for longer than a head may take
        assert verdict(url, key, bytewise(data)) == whole
    for seed in range(3):
        assert verdict(url, key, cut(data, random_places(data, seed=seed))) == whole


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chunked", [(200, ""), (200, "")]),
        ("tiny chunks", [(200, ""), (200, "")]),
        ("key in a trailer", [(401, "unauthenticated"), (200, "")]),
        ("headers in trailers", [(200, ""), (200, "")]),
        ("broken chunk", [(400, "bad_request")]),
        ("broken chunk without a key", [(401, "unauthenticated")]),
        ("broken second request", [(200, ""), (400, "bad_request")]),
        ("compressed twice", [(415, "unsupported_encoding"), (200, "")]),
        ("expect", [(200, ""), (200, "")]),
        ("upgrade", [(200, ""), (200, "")]),
        ("HTTP/1.0", [(200, "")]),
        ("closed", [(200, "")]),
        ("bare line feeds", [(400, "bad_request")]),
    ],
)
def test_C2_odd_request_has_its_verdict(
    server: tuple[str, str], name: str, expected: list[object]
) -> None:
    url, key = server
    found, charged = verdict(url, key, [odd_requests(key)[name] + LAST])
    assert found == expected
    assert charged == (expected[0] == (200, "") and name != "HTTP/1.0")
