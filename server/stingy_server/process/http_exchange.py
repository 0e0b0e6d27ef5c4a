"""One request and its response, as the ASGI application receives and sends them."""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, Protocol

from starlette.types import ASGIApp, Message

log = logging.getLogger("stingy")

HIGH_WATER_BYTES = 64 * 1024  # unread bytes of a body from which on the connection is not read
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
# The extension of ASGI with which an application asks whether the whole body has come.
BODY_ARRIVED = "stingy.body_arrived"
BODILESS = (204, 304)  # statuses whose responses have no body


class Connection(Protocol):
    """The connection of an exchange."""

    write_paused: bool

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that every response has."""

    def write(self, data: bytes) -> None: ...

    def resume_input(self) -> None:
        """Take more of the body from the client."""

    async def await_writable(self) -> None:
        """Wait until the client has read enough, or has left."""

    def is_last(self, exchange: "Exchange") -> bool:
        """Return whether the connection closes after this exchange."""

    def finish(self, exchange: "Exchange") -> None:
        """Go on after the response of this exchange was written whole."""

    def fail(self, exchange: "Exchange") -> None:
        """Go on after the application ended without a whole response."""


class Exchange:
    """One request and its response.

    Attributes:
        body_complete: whether the whole body has come.
        broken: whether the coding of the body is broken. The application then receives an end of
            the connection, so that the refusal does not depend on what it had read before.
        response_started: whether a byte of the response was written.
        response_complete: whether the response was written whole.
        disconnected: whether the client has left.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_chunked",
        "_connection",
        "_delivered",
        "_event",
        "_expects_continue",
        "_head",
        "_left",
        "body_complete",
        "broken",
        "disconnected",
        "keep_alive",
        "response_complete",
        "response_started",
        "scope",
    )

    def __init__(
        self,
        connection: Connection,
        scope: dict[str, Any],
        *,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.body_complete = self.broken = self.disconnected = False
        self.response_started = self.response_complete = False
        self._connection = connection
        self._expects_continue = expects_continue
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._delivered = False  # whether the application has received the end of the body
        self._event: asyncio.Event | None = None
        self._head: bytes | None = None  # the head of the response, until its body begins
        self._chunked = False
        self._left = 0  # bytes of the response's body that the application has not sent

    @property
    def full(self) -> bool:
        """True if the application must read before more of the body is taken."""
        return self._body_bytes > HIGH_WATER_BYTES and not self.response_complete

    def has_body(self) -> bool:
        """Return whether the whole body has come."""
        return self.body_complete

    def add_body(self, pieces: list[bytes]) -> None:
        """Add bytes of the body. They are dropped once the response is complete."""
        if not self.response_complete:
            self._body += pieces
            self._body_bytes += sum(map(len, pieces))
            self.wake()

    def wake(self) -> None:
        """Wake the application if it waits for a message."""
        if self._event is not None:
            self._event.set()

    async def run(self, app: ASGIApp) -> None:
        """Run the application. Its exceptions end the connection, and their text is not logged."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001  no text of any error may leave
            log.error("unexpected %s", type(error).__name__)
        finally:
            if not (self.response_complete or self.disconnected):
                self._connection.fail(self)

    async def receive(self) -> Message:
        """Return the next message of the request, as ASGI defines it."""
        if self._expects_continue:
            self._expects_continue = False
            if not (self.body_complete or self.response_started):
                self._connection.write(CONTINUE)
        while not self._has_message():
            if self._event is None:
                self._event = asyncio.Event()
            self._event.clear()
            await self._event.wait()
        if self.disconnected or self.response_complete or (self.broken and not self._body):
            return {"type": "http.disconnect"}
        body = b"".join(self._body)  # no copy of a single piece
        self._body = []
        self._body_bytes = 0
        self._delivered = self.body_complete
        if not self.body_complete:
            self._connection.resume_input()
        return {"type": "http.request", "body": body, "more_body": not self._delivered}

    def _has_message(self) -> bool:
        return bool(
            self._body
            or self.disconnected
            or self.response_complete
            or self.broken
            or (self.body_complete and not self._delivered)
        )

    async def send(self, message: Message) -> None:
        """Write the next message of the response, as ASGI defines it. The head waits for a body."""
        connection = self._connection
        if connection.write_paused and not self.disconnected:
            await connection.await_writable()
        if self.disconnected:
            return
        if self._head is None and not self.response_started:
            self._head = self._make_head(message)
            return
        if message["type"] != "http.response.body" or self.response_complete:
            raise RuntimeError(f"expected a body of the response, got {message['type']}")
        self._write_body(message.get("body", b""), more=message.get("more_body", False))

    def _make_head(self, message: Message) -> bytes:
        if message["type"] != "http.response.start":
            raise RuntimeError(f"expected the start of a response, got {message['type']}")
        status = message["status"]
        lines = [STATUS_LINES[status]]
        length, closes = None, False
        headers = [*self._connection.default_headers, *message.get("headers", ())]
        line_ends = len(headers) + 2  # of the status, of each header, and of the head
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                closes = b"close" in value.lower()
        if closes or not self.keep_alive or self._connection.is_last(self):
            self.keep_alive = False
            if not closes:
                lines.append(b"connection: close\r\n")
                line_ends += 1
        if self.scope["method"] == "HEAD" or status in BODILESS:
            self._left = -1
        elif length is not None:
            self._left = length
        else:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
            line_ends += 1
        lines.append(b"\r\n")
        head = b"".join(lines)
        if not head.count(b"\n") == head.count(b"\r") == line_ends:
            raise RuntimeError("expected headers of one line each, got more lines")
        return head

    def _write_body(self, body: bytes, *, more: bool) -> None:
        head, self._head = self._head, None
        if self._left == -1:
            body = b""
        elif self._chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body += b"" if more else b"0\r\n\r\n"
        else:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                self._head = head
                raise RuntimeError("expected a body of the declared length, got another length")
        self.response_started = True
        if data := body if head is None else head + body:
            self._connection.write(data)
        if not more:
            self.response_complete = True
            self._body.clear()
            self.wake()
            self._connection.finish(self)
