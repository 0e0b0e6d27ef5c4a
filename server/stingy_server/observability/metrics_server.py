"""The port of the metrics for Prometheus, apart from the public one.

It names no product, echoes nothing, and has a limit of open connections, because it shares the
open files of its process with the service.
"""

import socket
import threading
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.multiprocess import MultiProcessCollector

from stingy_server.errors import SECURITY_HEADERS

MAX_SCRAPES = 16  # connections at once; others are closed at once
SILENCE_S = 5.0  # seconds after which a silent connection is closed


class MetricsServer(ThreadingHTTPServer):
    """An HTTP server with a limited number of connections, bound to its address.

    Raises:
        OSError: the address is taken, or is none of this machine.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._places = threading.BoundedSemaphore(MAX_SCRAPES)
        super().__init__((host, port), _Handler, bind_and_activate=False)
        try:
            self.server_bind()
        except OSError:
            self.server_close()
            raise

    def listen(self) -> None:
        """Accept connections. They wait until `start`.

        Raises:
            OSError: another process listens on the address.
        """
        self.server_activate()

    def start(self, registry: CollectorRegistry | None) -> None:
        """Serve the metrics to Prometheus, in threads of their own.

        Args:
            registry: the counters to serve; None for those of all processes.
        """
        if registry is None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        self.RequestHandlerClass = _Handler.factory(registry)
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: the client has left."""


class _Handler(MetricsHandler):
    """prometheus_client's handler without the headers and pages that name the server."""

    timeout = SILENCE_S

    def send_response(self, code: int, message: str | None = None) -> None:
        self.send_response_only(code)
        self.send_header("Date", self.date_time_string())
        for name, value in SECURITY_HEADERS:
            self.send_header(name.decode(), value.decode())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        text = HTTPStatus(code).phrase.encode()
        self.send_response(code)
        self.send_header("Connection", "close")
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
