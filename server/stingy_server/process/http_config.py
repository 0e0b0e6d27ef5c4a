"""uvicorn's configuration for this server's protocol."""

from typing import Any

import uvicorn

from stingy_server.observability.metrics import Metrics
from stingy_server.process.certificate import Certificate
from stingy_server.process.connection_table import ConnectionTable
from stingy_server.process.descriptors import count_connections_allowed, raise_descriptor_limit
from stingy_server.process.http_protocol import KEEP_ALIVE_S, HttpProtocol
from stingy_server.process.tls_handshake import TlsHandshake


class HttpConfig(uvicorn.Config):
    """uvicorn's configuration with this server's protocol and two timeouts.

    Args:
        header_timeout_s: seconds allowed to receive the headers of a request.
        body_timeout_s: seconds allowed to receive the rest of a body after its request was
            answered, and to read a response.

    Attributes:
        certificate: that of the application; None for plain HTTP.
    """

    metrics: Metrics
    connections: ConnectionTable
    certificate: Certificate | None

    def __init__(
        self,
        app: Any,
        *,
        header_timeout_s: float,
        body_timeout_s: float,
        **options: Any,
    ) -> None:
        super().__init__(app, http=HttpProtocol, **options)
        self.header_timeout_s = header_timeout_s
        self.body_timeout_s = body_timeout_s

    def load(self) -> None:
        """Load the application in the process that serves, and count the open files."""
        super().load()
        self.certificate = self.loaded_app.state.certificate
        if self.certificate is not None:
            self.http_protocol_class = TlsHandshake
        raise_descriptor_limit()
        shortest = min(self.header_timeout_s, self.body_timeout_s, KEEP_ALIVE_S)
        self.metrics = self.loaded_app.state.service.metrics
        self.connections = ConnectionTable(
            most=count_connections_allowed(),
            tick_s=min(max(shortest / 4, 0.01), 1.0),
            counter=self.metrics,
        )
