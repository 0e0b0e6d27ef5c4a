"""Requests cut into segments: to a parser in this process, or to a real server over a socket."""

import random
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial

from raw_http import connected, until_closed
from stingy_server.process.request_head import MalformedRequest, RequestHead
from stingy_server.process.request_parser import RequestParser

Parser = Callable[["RecordingReceiver"], RequestParser]


class RecordingReceiver:
    """A receiver that takes every request and records it."""

    def __init__(self) -> None:
        self.ended = self.body_is_full = False
        self.requests: list[tuple[RequestHead, bytearray, list[bool]]] = []

    def may_begin(self) -> bool:
        return True

    def begin(self, head: RequestHead) -> None:
        self.requests.append((head, bytearray(), []))

    def add_body(self, pieces: list[bytes], *, complete: bool) -> None:
        _, body, ends = self.requests[-1]
        body += b"".join(pieces)
        if complete:
            ends.append(True)


def parsed(make_parser: Parser, segments: Sequence[bytes]) -> list[object]:
    """Return all that a parser makes of these segments: requests, bodies, the refusal, the rest."""
    receiver = RecordingReceiver()
    parser = make_parser(receiver)
    try:
        for segment in segments:
            parser.feed(segment)
            while parser.stalled:
                parser.resume()
    except MalformedRequest:
        return [*receiver.requests, "malformed"]
    return [*receiver.requests, parser.in_body or bool(parser.unparsed.strip(b"\r\n"))]


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut data at these places."""
    ends = sorted({place for place in places if 0 < place < len(data)})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def bytewise(data: bytes) -> list[bytes]:
    return cut(data, range(len(data)))


def assert_same_parse(make_parser: Parser, data: bytes, places: Sequence[int]) -> None:
    """Check a promise of C: the segments do not change what a parser makes of the bytes."""
    whole = parsed(make_parser, [data])
    assert parsed(make_parser, bytewise(data)) == whole
    assert parsed(make_parser, cut(data, places)) == whole


def replies(
    url: str, segments: Sequence[bytes], *, pause_s: float = 0.0
) -> list[tuple[int, bytes]]:
    """Send segments, and return the status and body of every reply until the connection ends."""
    with connected(url) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for segment in segments:
                connection.sendall(segment)
                time.sleep(pause_s)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server refused what came before
        received = until_closed(connection)
    buffer = bytearray(received)
    return list(iter(partial(_take_reply, buffer), None))


def _take_reply(received: bytearray) -> tuple[int, bytes] | None:
    """Take the first reply from the received bytes; None if there is none."""
    while received.startswith(b"HTTP/1.1 100"):
        del received[: received.index(b"\r\n\r\n") + 4]
    if not received:
        return None
    head, _, rest = bytes(received).partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    assert len(rest) >= length, "a reply was cut off"
    del received[: len(head) + 4 + length]
    return int(head.split()[1]), rest[:length]


def random_places(data: bytes, *, seed: int) -> list[int]:
    """Return up to eight random places in data."""
    generator = random.Random(seed)
    return [generator.randrange(len(data)) for _ in range(generator.randint(1, 8))]
