"""The gRPC server of one process: its limits, its start and its drain."""

import asyncio
import logging
import time
from typing import Any

import grpc.aio

from stingy_server.errors import ConfigurationError
from stingy_server.process.certificate import Certificate, Pair
from stingy_server.rpc.arrivals import largest_message
from stingy_server.rpc.calls import Calls
from stingy_server.rpc.methods import RPCS
from stingy_server.service import Service
from stingy_server.settings import Settings

STREAMS = 100  # calls at once on one connection; the client keeps others waiting
METADATA_BYTES = 2**14  # of a call's head, as over HTTP
KEEPALIVE_S = 60  # between two pings to a silent client
KEEPALIVE_TIMEOUT_S = 20
IDLE_S = 300  # after which a connection without a call is closed
CLIENT_PING_S = 10  # between two pings of a client; one that sends more often is dropped
WINDOW_BYTES = 2**16  # of a message, before its call reads it
IDENTITY = 1  # the set of compressions with this one alone
POLL_S = 0.05


def server_options(settings: Settings) -> list[tuple[str, int]]:
    """Return the options of gRPC that bound messages, heads, streams and silent connections."""
    return [
        ("grpc.max_receive_message_length", largest_message(settings)),
        ("grpc.max_send_message_length", -1),  # answers are bounded by their requests
        ("grpc.max_concurrent_streams", STREAMS),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", round(settings.header_timeout_s * 1000)),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", IDLE_S * 1000),
        ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_S * 1000),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.http2.bdp_probe", 0),  # it would widen that window
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY),
        # Workers share a port. One process alone takes it for itself.
        ("grpc.so_reuseport", int(settings.workers > 1)),
    ]


def make_credentials(certificate: Certificate) -> Any:
    """Make credentials of TLS. A handshake gets the latest valid pair of the certificate."""
    used = certificate.pair

    def latest() -> Any:
        # gRPC calls this in each handshake, one at a time, in a thread of its own.
        nonlocal used
        if certificate.pair is used:
            return None
        used = certificate.pair
        return _configure(used)

    return grpc.dynamic_ssl_server_credentials(_configure(used), latest)


def _configure(pair: Pair) -> Any:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)])


class RpcServer:
    """The gRPC server of a service, on the event loop that starts it.

    Args:
        certificate: that of the HTTP server; None for gRPC without TLS.

    Attributes:
        port: the port that it listens on.
    """

    def __init__(self, service: Service, certificate: Certificate | None) -> None:
        self._service = service
        self._calls = Calls(service, RPCS)
        self._certificate = certificate
        self.port = 0

    async def start(self) -> None:
        """Listen on the port of the settings.

        Raises:
            ConfigurationError: the port cannot be listened on, or gRPC refuses the certificate.
        """
        logging.getLogger("grpc").setLevel(logging.CRITICAL)
        settings = self._service.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.grpc_port}"
        self._server = grpc.aio.server(handlers=(self._calls,), options=server_options(settings))
        certificate = self._certificate
        try:
            if certificate is None:
                self.port = self._server.add_insecure_port(address)
            else:
                # Kept here, because gRPC keeps no reference to what its handshakes call.
                self._credentials = make_credentials(certificate)
                self.port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError:
            self.port = 0
        if not self.port:
            reason = "" if certificate is None else ", or gRPC refuses the certificate"
            raise ConfigurationError([f"grpc_port: cannot listen on {address}{reason}"])
        await self._server.start()

    async def stop(self) -> None:
        """Take no more calls, and answer those in flight until the drain's time is over."""
        stopping = asyncio.create_task(self._server.stop(grace=2 * self._service.settings.drain_s))
        while self._calls.running and time.monotonic() < self._service.drain_until:
            await asyncio.wait(self._calls.running, timeout=POLL_S)
        for call in [*self._calls.running]:
            call.cancel()
        await stopping
