"""The head of a request: the rules of RFC 9112 beyond those of httptools."""

import pytest

from stingy_server.process.request_head import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MalformedRequest,
    parse_head,
)

BAD_HOSTS = ("x/y", "a b", "u@x", "x:y", "[::1", "x,y", "\xe9")


def head(*lines: str, start: str = "GET / HTTP/1.1", host: str = "Host: x") -> bytes:
    return "\r\n".join([start, *([host] if host else []), *lines, "", ""]).encode("latin-1")


def test_C4_good_head_is_parsed_whole() -> None:
    parsed = parse_head(
        head("A: b ", "Content-Length: 7", "Expect: 100-Continue", start="POST /a%20b?c=d HTTP/1.1")
    )
    assert (parsed.method, parsed.path, parsed.raw_path) == ("POST", "/a b", b"/a%20b")
    assert (parsed.query, parsed.version, parsed.length) == (b"c=d", "1.1", 7)
    assert parsed.keep_alive
    assert parsed.expects_continue
    assert not parsed.chunked
    assert parsed.headers[:2] == ((b"host", b"x"), (b"a", b"b "))


@pytest.mark.parametrize(
    "host",
    ["", "x", "x:80", "x:", "a-b_c.example", "127.0.0.1:8080", "[::1]", "[::1]:8080", "a%20b"],
)
def test_C4_valid_host_is_accepted(host: str) -> None:
    assert dict(parse_head(head(host=f"Host: {host}")).headers)[b"host"] == host.encode()


@pytest.mark.parametrize(
    "data",
    [
        head(host=""),
        head("Host: x"),
        head("host: y"),
        *(head(host=f"Host: {host}") for host in BAD_HOSTS),
        head(start="GET / HTTP/2.0"),
        head(start="GET / HTTP/1.2"),
        head(start="GET / HTTP/0.9"),
        head(start="GET /"),
        head(start="GET / http/1.1"),
        head(start="PRI * HTTP/2.0"),
        head("Host: x", start="GET / HTTP/1.0"),
        head("Transfer-Encoding: chunked", start="POST / HTTP/1.0"),
        head("Transfer-Encoding: gzip, chunked"),
        head("Transfer-Encoding: identity"),
        head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        head("Transfer-Encoding: chunked", "Content-Length: 5"),
        head("Content-Length: 5", "Content-Length: 5"),
        head("Content-Length: +5"),
        head("Content-Length: 99999999999999999999999"),
        head("A: b\nC: d"),
        head("A: b\rC: d"),
        head("A : b"),
        head(" A: b"),
        head("A: b\0"),
        head(start="GET /\x80 HTTP/1.1"),
        head(start="CONNECT x:443 HTTP/1.1"),
        head(*["A: b"] * MAX_HEADERS),
        head("A: " + "b" * MAX_HEADER_BYTES),
        b"\r\n\r\n",
        b"hello\r\n\r\n",
    ],
)
def test_C4_head_that_breaks_a_rule_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse_head(data)


@pytest.mark.parametrize(
    ("data", "keep_alive"),
    [
        (head("Connection: close"), False),
        (head("Connection: a, Close"), False),
        (head("Connection: a", "Connection: close", "Connection: b"), False),
        (head("Connection: keep-alive", start="GET / HTTP/1.0"), False),
        (head(start="GET / HTTP/1.0", host=""), False),
        (head("Connection: Upgrade", "Upgrade: h2c"), True),
    ],
)
def test_H12_connection_is_kept_unless_the_head_closes_it(data: bytes, keep_alive: bool) -> None:
    assert parse_head(data).keep_alive is keep_alive
