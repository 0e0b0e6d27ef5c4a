"""HTTP/1.1 on one connection: what may wait, what is refused, and when the connection ends.

`request_parser` cuts the bytes into requests. This module keeps at most one request
behind the one that is being answered, and holds the connection to its deadlines.
"""

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from stingy_server.errors import (
    BAD_REQUEST,
    ERROR_CODE,
    INTERNAL,
    JSON,
    SECURITY_HEADERS,
    Refusal,
    error_body,
)
from stingy_server.process.connection_table import NEVER, Rank
from stingy_server.process.http_exchange import BODY_ARRIVED, STATUS_LINES, Exchange
from stingy_server.process.request_head import MalformedRequest, RequestHead
from stingy_server.process.request_parser import RequestParser

if TYPE_CHECKING:
    from stingy_server.process.http_config import HttpConfig

KEEP_ALIVE_S = 5.0  # seconds that a connection may wait for its next request
LINGER_S = 1.0  # seconds in which a client may read the last response before the connection ends
ASGI = {"version": "3.0", "spec_version": "2.3"}


class HttpProtocol(asyncio.Protocol):
    """One connection. Malformed requests get 400, and slow ones no answer.

    At most one request waits behind the one that is being answered. While it waits, nothing is
    read or parsed. If a third has come already, the connection ends after the second response.
    """

    def __init__(
        self,
        config: "HttpConfig",
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.rank = Rank.HEADLESS
        self.owner: str | None = None
        self.input_deadline = self.output_deadline = NEVER
        self.write_paused = False
        self.ended = False  # no further request is taken
        self._config = config
        self._table = config.connections
        self._metrics = config.metrics
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._addresses: dict[str, Any] = {}
        self._running: Exchange | None = None
        self._waiting: Exchange | None = None
        self._receiving: Exchange | None = None  # the exchange whose body is being received
        self._parser = RequestParser(self)
        self._idle = False  # a response was written, and nothing has come since
        self._lingering = False  # all is written, and what comes is dropped
        self._refusal: Refusal | None = None  # sent after the responses under way
        self._caller: str | None = None  # the id of the last request's key, if it was valid
        self._reading_paused = False
        self._writable: asyncio.Event | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        if not self._table.add(self):
            transport.abort()
            return
        self._server_state.connections.add(self)  # type: ignore[arg-type]
        self._addresses = {
            "server": get_local_addr(transport),
            "client": get_remote_addr(transport),
            "scheme": "https" if is_ssl(transport) else "http",
        }
        self.input_deadline = self._loop.time() + self._config.header_timeout_s

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.remove(self)
        self._server_state.connections.discard(self)
        self.input_deadline = self.output_deadline = NEVER
        self.ended = True
        self._parser.clear()
        self._receiving = self._waiting = None
        if self._running is not None:
            self._running.disconnected = True
            self._running.wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self.write_paused = True
        self.output_deadline = self._loop.time() + self._config.body_timeout_s
        self._update_rank()

    def resume_writing(self) -> None:
        self.write_paused = False
        if not (self._lingering or self._transport.is_closing()):
            self.output_deadline = NEVER
            self._update_rank()
        if self._writable is not None:
            self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self.ended and self._receiving is None:
            return
        if self._idle:
            self._idle = False
            self.input_deadline = self._loop.time() + self._time_allowed()
        self._feed(data)

    # What the table of connections and uvicorn's server call.

    def expire(self) -> None:
        """Close a connection whose deadline has passed."""
        now = self._loop.time()
        unread = self.output_deadline < now
        if self._lingering and self._unsent and not unread:
            self.input_deadline = now + LINGER_S
        elif self._idle and not unread:
            self._idle = False
            self._close()
        else:
            if unread or not self._lingering:
                self._metrics.count_drop("slow")
            self.drop()

    def drop(self) -> None:
        """Close the connection at once."""
        self.input_deadline = self.output_deadline = NEVER
        self._transport.abort()

    def shutdown(self) -> None:
        """Close the connection, after the requests under way were answered."""
        self.ended = True
        if self._running is None:
            self._close()

    # What an exchange calls.

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that every response has."""
        return self._server_state.default_headers

    def write(self, data: bytes) -> None:
        """Write to the client."""
        self._transport.write(data)

    async def await_writable(self) -> None:
        """Wait until the client has read enough, or has left."""
        if self._writable is None:
            self._writable = asyncio.Event()
        while self.write_paused:
            self._writable.clear()
            await self._writable.wait()

    def resume_input(self) -> None:
        """Take more of the body that the application has read so far."""
        if self._parser.unparsed and self._parser.in_body:
            self._loop.call_soon(self._feed_rest)
        self._update_reading()

    def is_last(self, exchange: Exchange) -> bool:
        """Return whether the connection closes after this exchange."""
        return self.ended and self._waiting is None and self._refusal is None

    def finish(self, exchange: Exchange) -> None:
        """Start the request that waits, or wait for the next one, or end the connection."""
        self._caller = _caller_of(exchange)
        self._running = None
        if self._transport.is_closing():
            return
        if not exchange.keep_alive:
            self._refusal = None  # the response said that it is the last
            self._end()
        elif self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._start(waiting)
        elif self.ended:
            self._end()
        else:
            self._await_next()
        self.resume_input()

    def fail(self, exchange: Exchange) -> None:
        """Refuse a request whose application ended without a response, and end the connection."""
        self._running = self._waiting = None
        if exchange.response_started:
            self.drop()
            return
        self._refusal = BAD_REQUEST if exchange.broken else INTERNAL
        self._end()

    # What the parser calls.

    @property
    def body_is_full(self) -> bool:
        """True if the application must read before more of the body is taken."""
        return self._receiving is not None and self._receiving.full

    def may_begin(self) -> bool:
        """Return whether a request may run or wait. A third one ends the connection."""
        if self._waiting is None:
            return True
        self._metrics.count_drop("pipelined")
        self.ended = True
        return False

    def begin(self, head: RequestHead) -> None:
        """Start a request, or let it wait."""
        exchange = Exchange(
            self,
            {
                "type": "http",
                "asgi": ASGI,
                "http_version": head.version,
                **self._addresses,
                "method": head.method,
                "root_path": "",
                "path": head.path,
                "raw_path": head.raw_path,
                "query_string": head.query,
                "headers": list(head.headers),
                "state": self._app_state.copy(),
                "extensions": {},
            },
            keep_alive=head.keep_alive,
            expects_continue=head.expects_continue,
        )
        exchange.scope["extensions"][BODY_ARRIVED] = exchange.has_body
        if not head.keep_alive:
            self.ended = True
        if self._parser.in_body:
            self._receiving = exchange
        else:
            exchange.body_complete = True
        if self._running is None:
            self._start(exchange)
        else:
            self._waiting = exchange

    def add_body(self, pieces: list[bytes], *, complete: bool) -> None:
        """Pass bytes of a body on to its exchange."""
        exchange = self._receiving
        assert exchange is not None  # noqa: S101  the parser is in its body
        if complete:
            exchange.body_complete = True
            self._receiving = None
        exchange.add_body(pieces)
        if complete and exchange.response_complete:
            self._await_next()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed(data)
        except MalformedRequest:
            self._refuse_malformed()
        if self._parser.stalled:
            self._loop.call_soon(self._feed_rest)
        self._update_reading()

    def _feed_rest(self) -> None:
        if self._parser.unparsed and not self._transport.is_closing():
            self._feed(b"")

    def _refuse_malformed(self) -> None:
        self._metrics.count_malformed()
        self._parser.clear()
        self.ended = True
        exchange, self._receiving = self._receiving, None
        if exchange is None:
            self._refusal = BAD_REQUEST
            if self._running is None:
                self._end()
            return
        # The application decides first, because it may have refused the head already.
        exchange.broken = True
        exchange.wake()
        if exchange.response_complete:
            self._end()

    # The state of the connection.

    @property
    def _unsent(self) -> bool:
        return self._transport.get_write_buffer_size() > 0

    def _time_allowed(self) -> float:
        """Return the seconds allowed for the head of a request, or for the rest of a body."""
        config = self._config
        return config.header_timeout_s if self._receiving is None else config.body_timeout_s

    def _start(self, exchange: Exchange) -> None:
        self._running = exchange
        self._idle = False
        self.input_deadline = NEVER  # the application limits the time of a body
        self._table.move(self, Rank.BUSY)
        tasks = self._server_state.tasks
        task = self._loop.create_task(exchange.run(self._config.loaded_app))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _await_next(self) -> None:
        """Give the client time for its next request, or for the rest of its body."""
        self._idle = not self._parser.unparsed
        allowed = KEEP_ALIVE_S if self._idle else self._time_allowed()
        self.input_deadline = self._loop.time() + allowed
        self._update_rank()

    def _end(self) -> None:
        """Write the refusal, if there is one, and let the client read all before the end.

        A connection that is closed while the client still sends would be reset. The client could
        then lose the responses.
        """
        self.ended = True
        self._receiving = None
        self._parser.clear()
        if self._transport.is_closing() or self._lingering:
            return
        if self._refusal is not None:
            self._transport.write(_refusal_bytes(self._refusal, self.default_headers))
        self._idle = False
        self.output_deadline = self._loop.time() + self._config.body_timeout_s
        self._linger()
        self._update_rank()
        self._update_reading()

    def _linger(self) -> None:
        """Send an end, and drop what the client still sends."""
        self._lingering = True
        self._transport.write_eof()
        self.input_deadline = self._loop.time() + LINGER_S

    def _close(self) -> None:
        """Close the connection after all was sent."""
        self._transport.close()
        self.input_deadline = NEVER
        self.output_deadline = self._loop.time() + self._config.body_timeout_s

    def _update_rank(self) -> None:
        running = self._running
        if running is None:
            caller = self._caller
        elif _caller_of(running) is not None or not self.write_paused:
            self._table.move(self, Rank.BUSY)
            return
        else:
            caller = None
        if caller is not None:
            self._table.move(self, Rank.CUSTOMER, caller)
        elif self.rank is not Rank.HEADLESS:
            self._table.move(self, Rank.STRANGER)

    def _update_reading(self) -> None:
        """Read from the client exactly if something could be done with what it sends."""
        paused = not self._lingering and (
            self._waiting is not None or self.body_is_full or self._parser.stalled
        )
        if paused != self._reading_paused and not self._transport.is_closing():
            self._reading_paused = paused
            if paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()


def _caller_of(exchange: Exchange) -> str | None:
    """Return the id of the valid key of a request, or None if it has none."""
    record = exchange.scope["state"].get("record")
    return None if record is None or record.key is None else record.key.id


def _refusal_bytes(refusal: Refusal, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the response to a request that no application receives."""
    request_id = secrets.token_hex(8)
    body = error_body(refusal, request_id)
    lines = [
        *headers,
        (b"content-length", b"%d" % len(body)),
        (b"content-type", JSON.encode()),
        (ERROR_CODE.lower().encode(), refusal.code.encode()),
        *SECURITY_HEADERS,
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    head = b"".join(b"%b: %b\r\n" % line for line in lines)
    return STATUS_LINES[refusal.status] + head + b"\r\n" + body
