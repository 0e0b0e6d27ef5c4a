"""The gRPC server of one process: its limits, its start and its drain."""

import asyncio
import logging
import os
import time

import grpc.aio

from stingy_server.errors import ConfigurationError
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


class RpcServer:
    """The gRPC server of a service, on the event loop that starts it.

    Attributes:
        port: the port that it listens on.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._calls = Calls(service, RPCS)
        self.port = 0

    async def start(self) -> None:
        """Listen on the port of the settings.

        Raises:
            ConfigurationError: the port cannot be listened on.
        """
        # Its own log would have the text of clients. It reads this when it starts.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        logging.getLogger("grpc").setLevel(logging.CRITICAL)
        settings = self._service.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.grpc_port}"
        self._server = grpc.aio.server(handlers=(self._calls,), options=server_options(settings))
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise ConfigurationError([f"grpc_port: cannot listen on {address}"])
        await self._server.start()

    async def stop(self) -> None:
        """Take no more calls, and answer those in flight until the drain's time is over."""
        stopping = asyncio.create_task(self._server.stop(grace=2 * self._service.settings.drain_s))
        while self._calls.running and time.monotonic() < self._service.drain_until:
            await asyncio.wait(self._calls.running, timeout=POLL_S)
        for call in [*self._calls.running]:
            call.cancel()
        await stopping
