"""The head of a request: its request line and headers, parsed and checked as a whole.

The caller passes complete heads alone. The verdict on a head therefore does not depend on the
segments in which it arrived. The grammar is httptools'. This module adds the rules of RFC 9112
that httptools does not check: line ends, version, Host and transfer coding.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

import httptools

MAX_HEADER_BYTES = 16 * 1024
MAX_HEADERS = 100
END = b"\r\n\r\n"
SINGLE = (b"host", b"content-length", b"transfer-encoding")  # headers that may not be repeated
# RFC 3986: a name, an IPv4 address or an IP literal in brackets; then a port. A comma, which the
# RFC allows, would be two headers that a proxy has joined.
HOST = re.compile(rb"(?:[\w.~!$&'()*+;=%-]*|\[[\w.:~!$&'()*+;=-]+\])(?::\d{0,5})?", re.ASCII)


class MalformedRequest(Exception):
    """A request that breaks the rules of HTTP. The server refuses it and closes the connection."""


class RequestHead(NamedTuple):
    """The parsed head of a request.

    Attributes:
        path: the decoded path.
        headers: names in lower case, and values, in their order.
        length: bytes of the body, if it is not chunked.
        keep_alive: whether the client wants to use the connection for another request.
        expects_continue: whether the client waits for 100 Continue before it sends the body.
    """

    method: str
    version: str
    path: str
    raw_path: bytes
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    length: int
    chunked: bool
    keep_alive: bool
    expects_continue: bool


class _Callbacks:
    """The receiver of httptools' callbacks for one head."""

    __slots__ = ("complete", "headers", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True


def parse_head(data: bytes) -> RequestHead:
    """Parse a head. `data` ends with its first empty line.

    Raises:
        MalformedRequest: the head breaks a rule of RFC 9112 or has too many bytes or headers.
    """
    lines = data.count(b"\r\n")
    # A line that ends otherwise could end the head elsewhere for a proxy.
    if data.count(b"\n") != lines or data.count(b"\r") != lines:
        raise MalformedRequest
    if len(data) > MAX_HEADER_BYTES or lines - 2 > MAX_HEADERS:
        raise MalformedRequest
    callbacks = _Callbacks()
    parser = httptools.HttpRequestParser(callbacks)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # ignored, as RFC 9110 allows: the request is answered in HTTP/1.1
    except httptools.HttpParserError:
        raise MalformedRequest from None
    version = parser.get_http_version()
    if not callbacks.complete or version not in ("1.1", "1.0"):
        raise MalformedRequest
    headers = callbacks.headers
    values = dict(headers)
    if len(values) != len(headers):
        names = [name for name, _ in headers]
        if any(names.count(name) > 1 for name in SINGLE):
            raise MalformedRequest
    host = values.get(b"host", b"" if version == "1.0" else None)
    if host is None or HOST.fullmatch(host) is None:
        raise MalformedRequest
    coding = values.get(b"transfer-encoding")
    if coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
        raise MalformedRequest
    path, raw_path, query = _parse_target(callbacks.url)
    return RequestHead(
        method=parser.get_method().decode("ascii"),
        version=version,
        path=path,
        raw_path=raw_path,
        query=query,
        headers=tuple(headers),
        length=int(values.get(b"content-length", b"0")),
        chunked=coding is not None,
        keep_alive=version == "1.1" and not _closes(headers, values),
        expects_continue=(
            version == "1.1" and values.get(b"expect", b"").lower() == b"100-continue"
        ),
    )


def _parse_target(target: bytes) -> tuple[str, bytes, bytes]:
    """Return the decoded path, the path as sent, and the query of a request's target."""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserError:
        raise MalformedRequest from None
    raw_path = url.path or b"/"
    if not raw_path.isascii():
        raise MalformedRequest
    path = raw_path.decode("ascii")
    return unquote(path) if "%" in path else path, raw_path, url.query or b""


def _closes(headers: list[tuple[bytes, bytes]], values: dict[bytes, bytes]) -> bool:
    return b"connection" in values and any(
        name == b"connection" and b"close" in value.lower() for name, value in headers
    )
