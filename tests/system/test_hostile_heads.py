"""Hostile heads, targets and methods on a raw connection to a real server without a proxy."""

import json

import httpx
import pytest

from checks import assert_plain_headers
from raw_http import answer, connected, head, until_closed
from serving import (
    png,
    random_images,
)
from stingy_server.errors import BAD_REQUEST

IMAGE = png(random_images(1)[0])


@pytest.mark.parametrize(
    "fields",
    [
        ["X-A: " + "a" * 65_536],
        [f"X-{number}: a" for number in range(1000)],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: -1"],
        ["X-A: a\0b"],
        [" X-A: folded"],
    ],
    ids=["64 KB", "1000 fields", "length and chunked", "two lengths", "negative", "NUL", "folded"],
)
def test_H4_hostile_head_is_refused_and_its_connection_ends(
    server: tuple[str, str], fields: list[str]
) -> None:
    url, key = server
    with connected(url) as connection:
        try:
            connection.sendall(head(key, *fields) + b"\r\n" + b"GET /smuggled HTTP/1.1\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return
        received = until_closed(connection)
        assert received == b"" or received.startswith(b"HTTP/1.1 4")
        assert received.count(b"HTTP/1.1") <= 1


@pytest.mark.parametrize(
    "target",
    [
        "http://x/v1/usage",
        "http://x/v2/health/live?/v1/usage",
        "//v1/usage",
        "/v2/health/live/../../../v1/usage",
        "/v2/health/live;/v1/usage",
        "/v2/health/live%2f..%2f..%2f..%2fv1%2fusage",
        "/%76%31/usage",
        "v1/usage",
        "*",
    ],
)
def test_A2_no_target_form_or_forwarding_header_opens_a_route(
    server: tuple[str, str], target: str
) -> None:
    lines = (
        f"GET {target} HTTP/1.1",
        "Host: x/v2/health/live?",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Prefix: /v2/health/live",
        "X-Original-URL: /v2/health/live",
        "X-HTTP-Method-Override: OPTIONS",
        "Connection: close",
    )
    with connected(server[0]) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n")
        received = until_closed(connection)
    assert b"budget" not in received
    if received.startswith(b"HTTP/1.1 200"):
        assert received.endswith(b'{"live":true}')
    else:
        assert received[:12] in (b"HTTP/1.1 401", b"HTTP/1.1 400")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "BREW"])
def test_H12_request_with_an_odd_method_is_refused(server: tuple[str, str], method: str) -> None:
    url, key = server
    with connected(url) as connection:
        request = head(key).replace(b"POST", method.encode(), 1)
        connection.sendall(request + b"Connection: close\r\n\r\n")
        assert until_closed(connection)[:10] == b"HTTP/1.1 4"


def test_H12_connection_stays_open_after_each_refusal(server: tuple[str, str]) -> None:
    url, key = server
    bad = head(key, "Content-Length: 1") + b"\r\nx"
    good = head(key, f"Content-Length: {len(IMAGE)}") + b"\r\n" + IMAGE
    with connected(url) as connection:
        for _ in range(3):
            connection.sendall(bad)
            assert answer(connection)[0] == 415
            connection.sendall(good)
            assert answer(connection)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x/forged\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET /forged\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"forged\r\n\r\n",
    ],
    ids=["no host", "two hosts", "bad host", "HTTP/2.0", "HTTP/0.9", "too long", "no HTTP"],
)
def test_C4_malformed_request_gets_the_400_of_every_error(
    server: tuple[str, str], sent: bytes
) -> None:
    with connected(server[0]) as connection:
        connection.sendall(sent)
        received = until_closed(connection)
    lines, _, body = received.partition(b"\r\n\r\n")
    response = httpx.Response(400, headers=_headers(lines))
    assert lines.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert_plain_headers(response.headers)
    assert response.headers["connection"] == "close"
    error = json.loads(body)["error"]
    assert (error["code"], error["message"]) == ("bad_request", BAD_REQUEST.message)
    assert error["request_id"] == response.headers["x-request-id"]
    assert b"forged" not in received


def _headers(lines: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in lines.decode().split("\r\n")[1:])
