"""uvicorn's HTTP protocol with limits on header size, count and time, and two more timeouts.

One timeout limits the rest of a body after its request was answered. The other limits the time in
which the client must read a response. uvicorn itself waits for ever for headers and for clients
that do not read. Here a timer runs on each connection while no request on it is being answered.
"""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 16 * 1024
MAX_HEADERS = 100


class BoundedConfig(uvicorn.Config):
    """uvicorn's configuration with two timeouts.

    Args:
        header_timeout_s: seconds allowed to receive the headers of a request.
        body_timeout_s: seconds allowed to receive the rest of a body after its request was
            answered, and to read a response.
    """

    def __init__(
        self, app: Any, *, header_timeout_s: float, body_timeout_s: float, **options: Any
    ) -> None:
        super().__init__(app, http=BoundedProtocol, **options)
        self.header_timeout_s = header_timeout_s
        self.body_timeout_s = body_timeout_s


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Headers that are too large get 400; slow ones get no answer."""

    config: BoundedConfig

    _header_bytes = 0
    _header_fields = 0
    _header_timer: asyncio.TimerHandle | None = None
    _partial_header_bytes = 0
    _has_other_bytes = False
    _in_body = False
    _reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_header_timer(self.config.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timer()
        self._stop_reader_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_reader_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_reader_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_reader_timer()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._start_reader_timer()

    def on_message_begin(self) -> None:
        self._header_bytes = self._header_fields = self._partial_header_bytes = 0
        self._has_other_bytes = True
        if self._header_timer is None:
            self._start_header_timer(self.config.header_timeout_s)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_header_bytes(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_fields += 1
        self._count_header_bytes(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_header_timer()
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        # Any data ends the time that uvicorn gives an idle connection. An empty line, or the rest
        # of a body whose request was already answered, does not begin new headers.
        if self._header_timer is None and (self.cycle is None or self.cycle.response_complete):
            config = self.config
            self._start_header_timer(
                config.body_timeout_s if self._in_body else config.header_timeout_s
            )
        self._has_other_bytes = self._in_body
        super().data_received(data)
        # Count these bytes only if all of them belong to headers that began earlier. A chunk with
        # the beginning of headers, or with the end of a body, may contain other bytes.
        if self._header_timer is not None and not self._has_other_bytes:
            self._partial_header_bytes += len(data)
            if self._partial_header_bytes > MAX_HEADER_BYTES:
                self.transport.abort()

    def _count_header_bytes(self, more: int) -> None:
        self._header_bytes += more
        if self._header_bytes > MAX_HEADER_BYTES or self._header_fields > MAX_HEADERS:
            # uvicorn answers 400.
            raise ValueError("expected smaller headers, got too many bytes or fields")

    def _start_header_timer(self, seconds: float) -> None:
        """Start the timer for complete headers, or for the rest of a body that precedes them."""
        self._header_timer = self.loop.call_later(seconds, self._abort)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        self._partial_header_bytes = 0

    def _start_reader_timer(self) -> None:
        """Start the timer for an unread response.

        Without it a connection that is to be closed stays open until the client has read all. A
        paused one stays open until the client reads.
        """
        if self._reader_timer is None:
            self._reader_timer = self.loop.call_later(
                self.config.body_timeout_s, self.transport.abort
            )

    def _stop_reader_timer(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _abort(self) -> None:
        self._header_timer = None
        if not self.transport.is_closing():
            self.transport.abort()
