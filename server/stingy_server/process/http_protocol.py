"""HTTP/1.1 on one connection: what may wait, what is refused, and when the connection ends.

`request_head` and `chunked_body` say what the bytes mean. This module keeps at most one request
behind the one that is being answered, and holds the connection to its deadlines.
"""

import asyncio
import secrets
from typing import Any

import uvicorn
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from stingy_server.errors import (
    BAD_REQUEST,
    INTERNAL,
    JSON,
    SECURITY_HEADERS,
    Refusal,
    error_body,
)
from stingy_server.process.chunked_body import ChunkedBody
from stingy_server.process.connection_table import NEVER, ConnectionTable, Rank
from stingy_server.process.descriptors import count_connections_allowed, raise_descriptor_limit
from stingy_server.process.http_exchange import STATUS_LINES, Exchange
from stingy_server.process.request_head import (
    END,
    MAX_HEADER_BYTES,
    MalformedRequest,
    RequestHead,
    parse_head,
)

KEEP_ALIVE_S = 5.0  # seconds that a connection may wait for its next request
LINGER_S = 1.0  # seconds in which a client may read the last response before the connection ends
CHUNKS_PER_TURN = 1000  # of a chunked body, so that tiny chunks do not keep the loop
CACHED_HEAD_BYTES = 1024


class HttpConfig(uvicorn.Config):
    """uvicorn's configuration with this protocol and two timeouts.

    Args:
        header_timeout_s: seconds allowed to receive the headers of a request.
        body_timeout_s: seconds allowed to receive the rest of a body after its request was
            answered, and to read a response.
    """

    connections: ConnectionTable

    def __init__(
        self, app: Any, *, header_timeout_s: float, body_timeout_s: float, **options: Any
    ) -> None:
        super().__init__(app, http=HttpProtocol, **options)
        self.header_timeout_s = header_timeout_s
        self.body_timeout_s = body_timeout_s

    def load(self) -> None:
        """Load the application, then share out the open files of this process."""
        super().load()
        raise_descriptor_limit()
        shortest = min(self.header_timeout_s, self.body_timeout_s, KEEP_ALIVE_S)
        self.metrics = self.loaded_app.state.service.metrics
        self.connections = ConnectionTable(
            most=count_connections_allowed(),
            tick_s=min(max(shortest / 4, 0.01), 1.0),
            counter=self.metrics,
        )


class HttpProtocol(asyncio.Protocol):
    """One connection. Malformed requests get 400, and slow ones no answer.

    At most one request waits behind the one that is being answered. While it waits, nothing is
    read or parsed. If a third has come already, the connection ends after the second response.
    """

    def __init__(
        self,
        config: HttpConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.rank = Rank.HEADLESS
        self.input_deadline = self.output_deadline = NEVER
        self.write_paused = False
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
        self._unparsed = b""
        self._length_left = 0  # bytes of a body with a declared length
        self._chunks: ChunkedBody | None = None
        self._idle = False  # a response was written, and nothing has come since
        self._ended = False  # no further request is taken
        self._lingering = False  # all is written, and what comes is dropped
        self._refusal: Refusal | None = None  # sent after the responses under way
        self._customer = False  # the last request had a valid key
        self._reading_paused = False
        self._writable: asyncio.Event | None = None
        self._cached: tuple[bytes, RequestHead] | None = None

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
        self._ended = True
        self._unparsed = b""
        self._waiting = None
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
        if self._ended and self._receiving is None:
            return
        if self._idle:
            self._idle = False
            config = self._config
            allowed = config.header_timeout_s if self._receiving is None else config.body_timeout_s
            self.input_deadline = self._loop.time() + allowed
        if not self._unparsed:
            self._parse(data, 0)
        else:
            # A head does not end in the bytes that were kept of it. Those of a body may have one.
            known = 0 if self._receiving is not None else len(self._unparsed)
            self._parse(self._unparsed + data, known)

    # What the table of connections and uvicorn's server call.

    def expire(self) -> None:
        """Close a connection whose deadline has passed."""
        now = self._loop.time()
        if self.output_deadline > now and self._lingering and self._unsent:
            self.input_deadline = now + LINGER_S
        elif self._idle:
            self._transport.close()
            self.input_deadline, self.output_deadline = NEVER, now + self._config.body_timeout_s
        else:
            if not self._lingering or self._unsent:
                self._metrics.count_drop("slow")
            self.drop()

    def drop(self) -> None:
        """Close the connection at once."""
        self.input_deadline = self.output_deadline = NEVER
        self._transport.abort()

    def shutdown(self) -> None:
        """Close the connection, after the requests under way were answered."""
        self._ended = True
        if self._running is None:
            self._transport.close()

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
        if self._unparsed and self._receiving is not None:
            self._loop.call_soon(self._parse_rest)
        self._update_reading()

    def is_last(self, exchange: Exchange) -> bool:
        """Return whether the connection closes after this exchange."""
        return self._ended and self._waiting is None and self._refusal is None

    def finish(self, exchange: Exchange) -> None:
        """Start the request that waits, or wait for the next one, or end the connection."""
        self._customer = _has_key(exchange)
        self._running = None
        if not exchange.keep_alive:
            self._refusal = None  # the response said that it is the last
            self._end()
        elif self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._start(waiting)
        elif self._ended:
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

    # Input.

    def _parse_rest(self) -> None:
        if self._unparsed and not self._transport.is_closing():
            self._parse(self._unparsed, 0)

    def _parse(self, data: bytes, known: int) -> None:
        """Take requests and their bodies from `data`, and keep what cannot be taken yet.

        Args:
            known: bytes at the beginning of `data` in which no head ends.
        """
        start = 0
        try:
            while start < len(data):
                before = start
                if self._receiving is not None:
                    if self._receiving.full:
                        break
                    start = self._take_body(data, start)
                elif self._ended:
                    start = len(data)
                else:
                    start = self._take_head(data, start, known)
                if start == before or not self._can_go_on:
                    break
        except MalformedRequest:
            start = len(data)
            self._refuse_malformed()
        self._unparsed = data[start:] if start < len(data) else b""
        self._update_reading()

    def _take_head(self, data: bytes, start: int, known: int) -> int:
        while data.startswith(b"\r\n", start):  # RFC 9112, section 2.2
            start += 2
        end = data.find(END, max(start, known - len(END)))
        end = len(data) if end < 0 else end + len(END)
        if end - start > MAX_HEADER_BYTES:
            raise MalformedRequest
        if not data.endswith(END, start, end) or start == end:
            return start
        if self._waiting is not None:  # a third request
            self._metrics.count_drop("pipelined")
            self._ended = True
            return len(data)
        head = self._parse_head(data[start:end])
        self._begin(head)
        return end

    def _parse_head(self, data: bytes) -> RequestHead:
        # Most clients send the same head for every request of a connection.
        if self._cached is not None and self._cached[0] == data:
            return self._cached[1]
        head = parse_head(data)
        self._cached = (data, head) if len(data) <= CACHED_HEAD_BYTES else None
        return head

    def _begin(self, head: RequestHead) -> None:
        """Make the exchange of a request, and start it or let it wait."""
        exchange = Exchange(
            self,
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": head.version,
                **self._addresses,
                "method": head.method,
                "root_path": "",
                "path": head.path,
                "raw_path": head.raw_path,
                "query_string": head.query,
                "headers": list(head.headers),
                "state": self._app_state.copy(),
            },
            keep_alive=head.keep_alive,
            expects_continue=head.expects_continue,
        )
        if not head.keep_alive:
            self._ended = True
        if head.chunked or head.length:
            self._receiving = exchange
            self._length_left = head.length
            self._chunks = ChunkedBody() if head.chunked else None
        else:
            exchange.body_complete = True
        if self._running is None:
            self._start(exchange)
        else:
            self._waiting = exchange

    def _take_body(self, data: bytes, start: int) -> int:
        exchange, chunks = self._receiving, self._chunks
        assert exchange is not None  # noqa: S101  the caller has checked it
        if chunks is None:
            piece = data[start : start + self._length_left]
            start += len(piece)
            self._length_left -= len(piece)
            complete, pieces = not self._length_left, [piece]
        else:
            pieces, start = chunks.decode(data, start, most_chunks=CHUNKS_PER_TURN)
            complete = chunks.complete
            if not (chunks.starved or complete):
                self._loop.call_soon(self._parse_rest)
        if complete:
            exchange.body_complete = True
            self._receiving = self._chunks = None
            if exchange.response_complete:
                self._await_next()
        exchange.add_body(pieces)
        return start

    def _refuse_malformed(self) -> None:
        self._metrics.count_malformed()
        self._ended = True
        if self._receiving is not None:
            # The application decides first, because it may have refused the head already.
            exchange = self._receiving
            self._receiving = self._chunks = None
            exchange.broken = True
            exchange.wake()
            if exchange.response_complete:
                self._end()
            return
        self._refusal = BAD_REQUEST
        if self._running is None:
            self._end()

    # The state of the connection.

    @property
    def _unsent(self) -> bool:
        return self._transport.get_write_buffer_size() > 0

    @property
    def _can_go_on(self) -> bool:
        """Whether the body that is being received may be parsed in this turn of the loop."""
        return self._chunks is None or self._chunks.starved

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
        self._idle = not self._unparsed
        allowed = KEEP_ALIVE_S if self._idle else self._config.header_timeout_s
        self.input_deadline = self._loop.time() + allowed
        self._update_rank()

    def _end(self) -> None:
        """Write the refusal, if there is one, and let the client read all before the end.

        A connection that is closed while the client still sends would be reset. The client could
        then lose the responses.
        """
        self._ended = True
        self._receiving = self._chunks = None
        self._unparsed = b""
        if self._transport.is_closing() or self._lingering:
            return
        if self._refusal is not None:
            self._transport.write(_refusal_bytes(self._refusal, self.default_headers))
        self._lingering = True
        self._idle = False
        self._transport.write_eof()
        now = self._loop.time()
        self.input_deadline = now + LINGER_S
        self.output_deadline = now + self._config.body_timeout_s
        self._update_rank()
        self._update_reading()

    def _update_rank(self) -> None:
        running = self._running
        if running is None:
            customer = self._customer
        elif _has_key(running) or not self.write_paused:
            self._table.move(self, Rank.BUSY)
            return
        else:
            customer = False
        if self.rank is not Rank.HEADLESS:
            self._table.move(self, Rank.CUSTOMER if customer else Rank.STRANGER)

    def _update_reading(self) -> None:
        """Read from the client exactly if something could be done with what it sends."""
        exchange = self._receiving
        paused = not self._lingering and (
            self._waiting is not None
            or (exchange is not None and exchange.full)
            or not self._can_go_on
        )
        if paused != self._reading_paused and not self._transport.is_closing():
            self._reading_paused = paused
            if paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()


def _has_key(exchange: Exchange) -> bool:
    record = exchange.scope["state"].get("record")
    return record is not None and record.key is not None


def _refusal_bytes(refusal: Refusal, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the response to a request that no application receives."""
    request_id = secrets.token_hex(8)
    body = error_body(refusal, request_id)
    lines = [
        *headers,
        (b"content-length", b"%d" % len(body)),
        (b"content-type", JSON.encode()),
        *SECURITY_HEADERS,
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    head = b"".join(b"%b: %b\r\n" % line for line in lines)
    return STATUS_LINES[refusal.status] + head + b"\r\n" + body
