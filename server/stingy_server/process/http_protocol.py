"""The HTTP protocol of uvicorn, with limits on heads: how slow, how large, how many fields; on how
long the rest of a refused body may take; and on how long an answer may lie untaken.

uvicorn itself waits for ever, for a request's head as for who does not read. Here a connection that
no request is being answered on has a timer.
"""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 16 * 1024
MAX_HEADERS = 100


class BoundedConfig(uvicorn.Config):
    """uvicorn's configuration, and the seconds that the head of a request may take to arrive, and
    those that the rest of a body may, once it is answered, or an answer to be taken."""

    def __init__(
        self, app: Any, *, header_timeout_s: float, body_timeout_s: float, **options: Any
    ) -> None:
        super().__init__(app, http=BoundedProtocol, **options)
        self.header_timeout_s = header_timeout_s
        self.body_timeout_s = body_timeout_s


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A head that is too large is answered 400, one that is too slow not at all."""

    config: BoundedConfig

    _head_bytes = 0
    _head_fields = 0
    _head_timer: asyncio.TimerHandle | None = None
    _unfinished_bytes = 0
    _mixed = False
    _in_body = False
    _reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await(self.config.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_has_come()
        self._answer_is_taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._answer_is_taken()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._await_reader()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._await_reader()

    def on_message_begin(self) -> None:
        self._head_bytes = self._head_fields = self._unfinished_bytes = 0
        self._mixed = True
        if self._head_timer is None:
            self._await(self.config.header_timeout_s)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_fields += 1
        self._grow(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_has_come()
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        # Whatever comes ends the time that uvicorn gives an idle connection. An empty line, or the
        # rest of a body that was answered before its end, is the beginning of no head.
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            config = self.config
            self._await(config.body_timeout_s if self._in_body else config.header_timeout_s)
        self._mixed = self._in_body
        super().data_received(data)
        # All of it belongs to a head that began before: what came with its beginning, or with the
        # end of a body, may not.
        if self._head_timer is not None and not self._mixed:
            self._unfinished_bytes += len(data)
            if self._unfinished_bytes > MAX_HEAD_BYTES:
                self.transport.abort()

    def _grow(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > MAX_HEAD_BYTES or self._head_fields > MAX_HEADERS:
            raise ValueError("the head of the request is too large")  # answered 400 by uvicorn

    def _await(self, seconds: float) -> None:
        """The head of a request, complete; a body's rest before it is in its time."""
        self._head_timer = self.loop.call_later(seconds, self._give_up)

    def _head_has_come(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._unfinished_bytes = 0

    def _await_reader(self) -> None:
        """What is to be closed stays open until all is taken, and so does what is not read."""
        if self._reader_timer is None:
            self._reader_timer = self.loop.call_later(
                self.config.body_timeout_s, self.transport.abort
            )

    def _answer_is_taken(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.abort()
