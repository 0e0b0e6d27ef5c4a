"""A real `stingy serve` with a gRPC port: workers, signals, idle connections, a port in use."""

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from rpc_calls import infer_message
from serving import (
    STINGY,
    charged,
    free_port,
    log_of,
    make_bundle,
    make_key,
    png,
    random_images,
    served,
    server_environment,
)
from stingy_server import Database
from stingy_server.rpc.messages import SERVICE
from stingy_server.store.ledger import Ledger

pytestmark = pytest.mark.timeout(300)
IMAGES = random_images(2) | 15
MESSAGE = infer_message(IMAGES)
# The beginning of a connection of HTTP/2, and empty settings.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
UNREACHABLE_STORE = {"STINGY_RATE_STORE": "redis://127.0.0.1:1"}  # no key here has a rate


class Caller:
    """A client of gRPC in a thread-safe channel of its own."""

    def __init__(self, port: int, key: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
        self._metadata = [("authorization", f"Bearer {key}")]

    def call(self, name: str, message: bytes = b"") -> str:
        """Return the name of the status with which a call ends."""
        method = self._channel.unary_unary(f"/{SERVICE}/{name}")
        try:
            method(message, metadata=self._metadata, timeout=60, wait_for_ready=True)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def close(self) -> None:
        self._channel.close()


class CallThread(threading.Thread):
    """A thread that sends one query."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(daemon=True)
        self._caller = caller
        self.status = ""
        self.start()

    def run(self) -> None:
        self.status = self._caller.call("ModelInfer", MESSAGE)


def grpc_server(
    tmp_path: Path,
    *arguments: str,
    seconds: float = 0.0,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Run a server with a gRPC port, as `served` does. Return it, the port and a key."""
    bundle = make_bundle(
        tmp_path / "b", factory="sample_networks:Slow", policy="stingy:n=2", seconds=seconds
    )
    port = free_port()
    key = make_key(tmp_path / "s")
    options = ("--grpc-port", str(port), *arguments)
    return served(bundle, *options, state=tmp_path / "s", **(environment or {})), port, key


def connect(port: int) -> socket.socket:
    """Connect to the gRPC port, which listens a moment after the server's announcement."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def await_charge(state: Path) -> None:
    deadline = time.monotonic() + 60
    while not charged(state):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_G2_workers_share_the_port_and_the_budget(tmp_path: Path) -> None:
    server, port, key = grpc_server(tmp_path, "--workers", "2", environment=UNREACHABLE_STORE)
    with server as (_, process):
        callers = [Caller(port, key) for _ in range(16)]
        threads = [CallThread(caller) for caller in callers]
        for thread in threads:
            thread.join(60)
        assert {thread.status for thread in threads} == {"OK"}
        for caller in callers:
            caller.close()
        process.terminate()
        assert process.wait(30) == 0
    assert charged(tmp_path / "s") == 16 * len(IMAGES)
    with closing(Database(tmp_path / "s")) as database:
        entries = [entry for _, entry in Ledger(database).entries()]
    assert sum(entry.answered for entry in entries) == 16 * len(IMAGES)
    assert sum(entry.event == "start" for entry in entries) == 2


def test_G4_signal_lets_the_call_in_flight_be_answered(tmp_path: Path) -> None:
    server, port, key = grpc_server(tmp_path, seconds=1.0)
    with server as (_, process), closing(Caller(port, key)) as caller:
        thread = CallThread(caller)
        await_charge(tmp_path / "s")
        process.send_signal(signal.SIGTERM)
        thread.join(60)
        assert thread.status == "OK"
        assert process.wait(30) == 0
    assert charged(tmp_path / "s") == len(IMAGES)


def test_G4_second_signal_ends_the_server_at_once(tmp_path: Path) -> None:
    server, port, key = grpc_server(tmp_path, seconds=8.0)
    with server as (_, process), closing(Caller(port, key)) as caller:
        thread = CallThread(caller)
        await_charge(tmp_path / "s")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        thread.join(60)
        assert thread.status == "UNAVAILABLE"
        assert time.monotonic() - began < 6
        process.wait(30)


@pytest.fixture
def idle_connections(tmp_path: Path) -> Iterator[tuple[str, int, str]]:
    """Open a thousand connections that begin HTTP/2 and then say nothing."""
    server, port, key = grpc_server(tmp_path)
    with server as (url, _), ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connect(port)).sendall(PREFACE)
        yield url, port, key


def test_G4_thousand_idle_connections_stop_nobody(
    idle_connections: tuple[str, int, str],
) -> None:
    url, port, key = idle_connections
    with closing(Caller(port, key)) as caller:
        assert [caller.call("ModelInfer", MESSAGE) for _ in range(3)] == ["OK"] * 3
    response = httpx.post(
        f"{url}/v1/predict/digits",
        content=png(IMAGES[0]),
        headers={"Authorization": f"Bearer {key}"},
    )
    assert response.status_code == 200


def test_G4_connection_that_does_not_speak_http2_is_closed(tmp_path: Path) -> None:
    server, port, key = grpc_server(tmp_path, environment={"STINGY_HEADER_TIMEOUT_S": "1"})
    with server as (_, _):
        for sent in (b"", b"PRI", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00"):
            with connect(port) as connection:
                connection.sendall(sent)
                with contextlib.suppress(ConnectionResetError):
                    while connection.recv(4096):
                        pass  # until the server has closed it
        with closing(Caller(port, key)) as caller:
            assert caller.call("ModelInfer", MESSAGE) == "OK"


def test_G3_hostile_bytes_write_no_line_to_the_log(tmp_path: Path) -> None:
    server, port, key = grpc_server(tmp_path)
    with server as (_, process):
        for junk in (PREFACE + b"\xff" * 500, b"\x00" * 100, PREFACE + b"\x00\x00\x04\x01"):
            with connect(port) as connection:
                connection.sendall(junk)
                connection.settimeout(1)
                with contextlib.suppress(OSError):
                    while connection.recv(4096):
                        pass
        with closing(Caller(port, key)) as caller:
            assert caller.call("Secret-name", b"\xff") == "UNIMPLEMENTED"
            assert caller.call("ModelInfer", b"\xff") == "INVALID_ARGUMENT"
        process.terminate()
        assert log_of(process) == []


def test_P6_port_in_use_is_a_fault_and_touches_nothing(tmp_path: Path) -> None:
    server, port, key = grpc_server(tmp_path)
    with server as (_, _), closing(Caller(port, key)) as caller:
        for workers in ("1", "2"):
            command = (*STINGY, "serve", tmp_path / "b", "--state", tmp_path / "s", "--port", "0")
            options = ("--grpc-port", str(port), "--workers", workers)
            refused = subprocess.run(
                [*command, *options],
                env=server_environment() | UNREACHABLE_STORE,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert (refused.returncode, "cannot listen here" in refused.stderr) == (2, True)
        assert [caller.call("ModelInfer", MESSAGE) for _ in range(5)] == ["OK"] * 5
