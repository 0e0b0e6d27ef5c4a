"""The bytes of one connection, cut into heads and bodies.

The verdict on a byte depends on the bytes before it alone, never on the segments in which they
came: a head is parsed when it is complete, and a body by its declared length or its chunks.
"""

from typing import Protocol

from stingy_server.process.chunked_body import ChunkedBody
from stingy_server.process.request_head import (
    END,
    MAX_HEADER_BYTES,
    MalformedRequest,
    RequestHead,
    parse_head,
)

CHUNKS_PER_TURN = 1000  # of a chunked body, so that tiny chunks do not keep the event loop
MAX_BLANK_LINES = 16  # before a head
CACHED_HEAD_BYTES = 1024


class Receiver(Protocol):
    """The receiver of requests.

    Attributes:
        ended: whether it takes no further request. What follows is dropped.
    """

    ended: bool

    @property
    def body_is_full(self) -> bool:
        """True if the application must read before more of the body is taken."""

    def may_begin(self) -> bool:
        """Return whether it takes the request whose head is complete now."""

    def begin(self, head: RequestHead) -> None:
        """Take a request. Its body follows, if it has one."""

    def add_body(self, pieces: list[bytes], *, complete: bool) -> None:
        """Take bytes of the body of the latest request."""


class RequestParser:
    """The parser of one connection.

    Attributes:
        in_body: whether bytes of a body are due.
        stalled: whether a turn of the event loop has ended before all chunks were decoded. The
            caller calls `resume` in the next turn.
        unparsed: bytes that were received and could not be taken yet.
    """

    __slots__ = (
        "_blank_lines",
        "_cached",
        "_chunks",
        "_length_left",
        "_receiver",
        "in_body",
        "stalled",
        "unparsed",
    )

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._chunks: ChunkedBody | None = None
        self._length_left = 0  # bytes of a body with a declared length
        self._blank_lines = 0  # since the last request
        self._cached: tuple[bytes, RequestHead] | None = None
        self.in_body = self.stalled = False
        self.unparsed = b""

    def feed(self, data: bytes) -> None:
        """Take requests and their bodies from `data`.

        Raises:
            MalformedRequest: the head or the chunks break a rule. All bytes are dropped.
        """
        known = 0
        if self.unparsed:
            # No head ends in the bytes that were kept of one.
            known = 0 if self.in_body else len(self.unparsed)
            data = self.unparsed + data
        self.unparsed = b""
        self.stalled = False
        start = 0
        while start < len(data):
            before = start
            if not self.in_body:
                start = self._take_head(data, start, known)
            elif not self._receiver.body_is_full:
                start = self._take_body(data, start)
            if start == before or self.stalled:
                self.unparsed = data[start:]
                break

    def resume(self) -> None:
        """Take what could not be taken before.

        Raises:
            MalformedRequest: as `feed`.
        """
        self.feed(b"")

    def clear(self) -> None:
        """Drop all bytes, and expect no more of the body."""
        self.unparsed = b""
        self.in_body = self.stalled = False

    def _take_head(self, data: bytes, start: int, known: int) -> int:
        receiver = self._receiver
        if receiver.ended:
            return len(data)
        while data.startswith(b"\r\n", start):  # RFC 9112, section 2.2
            start += 2
            self._blank_lines += 1
            if self._blank_lines > MAX_BLANK_LINES:
                raise MalformedRequest
        end = data.find(END, max(start, known - len(END)))
        size = (len(data) if end < 0 else end + len(END)) - start
        if size > MAX_HEADER_BYTES:
            raise MalformedRequest
        if end < 0:
            return start
        if not receiver.may_begin():
            return len(data)
        head = self._parse_head(data[start : start + size])
        self._blank_lines = 0
        if head.chunked or head.length:
            self.in_body = True
            self._length_left = head.length
            self._chunks = ChunkedBody() if head.chunked else None
        receiver.begin(head)
        return start + size

    def _parse_head(self, data: bytes) -> RequestHead:
        # Most clients send the same head for every request of a connection.
        if self._cached is not None and self._cached[0] == data:
            return self._cached[1]
        head = parse_head(data)
        self._cached = (data, head) if len(data) <= CACHED_HEAD_BYTES else None
        return head

    def _take_body(self, data: bytes, start: int) -> int:
        chunks = self._chunks
        if chunks is None:
            piece = data[start : start + self._length_left]
            self._length_left -= len(piece)
            start += len(piece)
            pieces, complete = [piece], not self._length_left
        else:
            pieces, start = chunks.decode(data, start, most_chunks=CHUNKS_PER_TURN)
            complete = chunks.complete
            self.stalled = not (complete or chunks.starved)
        self.in_body = not complete
        self._receiver.add_body(pieces, complete=complete)
        return start
