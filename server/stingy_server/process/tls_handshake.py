"""A connection until its TLS handshake is complete. It counts as one that has sent no head.

asyncio keeps a connection to itself until its handshake is complete, so a silent client could have
any number of them. Here the table of connections knows them from the first moment, and can drop
them.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uvicorn.server import ServerState

from stingy_server.process.connection_table import NEVER, Rank
from stingy_server.process.http_exchange import HIGH_WATER_BYTES
from stingy_server.process.http_protocol import LINGER_S, HttpProtocol

if TYPE_CHECKING:
    import socket

    from stingy_server.process.http_config import HttpConfig

CLOSE_S = 5.0  # seconds in which a client may answer the end of TLS


class TlsHandshake(asyncio.Protocol):
    """The protocol of a new connection. `HttpProtocol` takes its place after the handshake."""

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
        self._config = config
        self._table = config.connections
        self._server_state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._http = _HttpOverTls(config, server_state, app_state, self._loop)
        self._http.on_start = self._leave
        self._task: asyncio.Task[bool] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection from its transport, and begin the handshake."""
        if not self._table.add(self):
            transport.abort()  # type: ignore[attr-defined]
            return
        self._server_state.connections.add(self)  # type: ignore[arg-type]
        self.input_deadline = self._loop.time() + self._config.header_timeout_s
        connection: socket.socket = transport.get_extra_info("socket").dup()
        transport.abort()  # type: ignore[attr-defined]  # it has read nothing
        self._task = self._loop.create_task(self._shake_hands(connection))
        self._task.add_done_callback(lambda task: self._finish(task, connection))

    # What the table of connections and uvicorn's server call.

    def expire(self) -> None:
        """Close the connection, whose handshake is too slow."""
        self._config.metrics.count_drop("slow")
        self.drop()

    def drop(self) -> None:
        """Close the connection at once."""
        self._leave()
        if self._task is not None:
            self._task.cancel()

    def shutdown(self) -> None:
        """Close the connection, because the server ends."""
        self.drop()

    async def _shake_hands(self, connection: "socket.socket") -> bool:
        """Return whether the handshake is complete, and `HttpProtocol` has the connection."""
        config = self._config
        assert config.certificate is not None  # noqa: S101  otherwise connections begin as HTTP
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._http,
                connection,
                ssl=config.certificate.context,
                # The table ends slow handshakes earlier.
                ssl_handshake_timeout=2 * config.header_timeout_s,
                ssl_shutdown_timeout=config.body_timeout_s,
            )
        except ssl.SSLError:
            config.metrics.count_drop("handshake")
            return False
        except OSError:  # the client has left
            return False
        return True

    def _finish(self, task: asyncio.Task[bool], connection: "socket.socket") -> None:
        self._leave()
        if task.cancelled() or not task.result():
            connection.close()

    def _leave(self) -> None:
        """Leave the table, if the connection is there, and make room for its successor."""
        self._table.remove(self)
        self._server_state.connections.discard(self)
        self.input_deadline = NEVER


class _HttpOverTls(HttpProtocol):
    """HTTP on a connection whose handshake is complete.

    TLS has an end of its own, which the client answers. It comes after all was sent. uvloop hands
    each piece that is written on to the socket's transport, however large, and does not count it
    as unsent. So large data is written in pieces.
    """

    on_start: Callable[[], None]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.on_start()
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        super().connection_made(transport)

    def write(self, data: bytes) -> None:
        """Write to the client."""
        for start in range(0, len(data), HIGH_WATER_BYTES):
            super().write(data[start : start + HIGH_WATER_BYTES])

    def expire(self) -> None:
        """Close a connection whose deadline has passed, or that has sent its last response."""
        unread = self.output_deadline < self._loop.time()
        if self._lingering and not (self._unsent or unread or self._transport.is_closing()):
            self._close()
        else:
            super().expire()

    def _linger(self) -> None:
        if self._unsent:
            self._lingering = True
            self.input_deadline = self._loop.time() + LINGER_S
        else:
            self._close()

    def _close(self) -> None:
        """Send the end of TLS, and drop what the client still sends until it answers."""
        self._transport.close()
        self._lingering = True
        self.input_deadline, self.output_deadline = self._loop.time() + CLOSE_S, NEVER
