"""TLS in the server, with real certificates, connections and clients."""

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from certificates import Authority
from crowds import FEW_FILES, SILENT, counted, open_files, silent_crowd
from infer_requests import tensor
from raw_http import answer, connected, deaf, head, server_end, until_closed
from serving import (
    STINGY,
    free_port,
    log_of,
    make_bundle,
    make_key,
    png,
    random_images,
    served,
    server_environment,
)
from stingy_clients import Client, TransportError
from stingy_server.process.tls_handshake import CLOSE_S
from stingy_server.rpc.messages import SERVICE

IMAGE = png(random_images(1)[0])
HEADERS = {"STINGY_HEADER_TIMEOUT_S": "1", "STINGY_BODY_TIMEOUT_S": "5"}


class Secured:
    """A server with a certificate of its own authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.pair = self.authority.issue()
        self.chain, self.key = self.pair.write(folder / "tls")
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.authority.pem)
        self.state = folder / "state"
        self.secret = make_key(self.state)
        self.environment = {"STINGY_TLS_CERT": str(self.chain), "STINGY_TLS_KEY": str(self.key)}

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)

    @contextmanager
    def shaken(self, url: str, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
        """Open a connection whose handshake is complete."""
        with connected(url) as plain:
            secure = (context or self.context()).wrap_socket(plain, server_hostname="127.0.0.1")
            with secure:
                yield secure

    @contextmanager
    def ready(self, url: str) -> Iterator[None]:
        """Wait until a worker serves."""
        httpx.get(f"{url}/v2/health/live", verify=self.context(), timeout=120)
        yield

    def request(self, connection: ssl.SSLSocket) -> int:
        length = f"Content-Length: {len(IMAGE)}"
        connection.sendall(head(self.secret, length) + b"\r\n" + IMAGE)
        return answer(connection)[0]

    def serial(self, url: str) -> int:
        with self.shaken(url) as connection:
            found = connection.getpeercert()
            assert found is not None
            return int(str(found["serialNumber"]), 16)


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


def test_T1_clients_query_over_tls(bundle: Path, secured: Secured) -> None:
    port = free_port()
    with served(bundle, "--grpc-port", str(port), state=secured.state, **secured.environment) as (
        url,
        _,
    ):
        assert url.startswith("https://")
        credentials = grpc.ssl_channel_credentials(secured.authority.pem)
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            live = channel.unary_unary(f"/{SERVICE}/ServerLive")
            assert live(b"", timeout=60, wait_for_ready=True) == b"\x08\x01"
        with Client(url, secured.secret, ca=secured.ca) as client:
            answers = client.predict_batch([IMAGE] * 20, model="digits")
            assert len(answers) == 20
            assert client.usage().used == 20
        with Client(url, secured.secret) as stranger, pytest.raises(TransportError, match="--ca"):
            stranger.usage()
        options = ["--url", url, "--key", secured.secret, "--model", "digits", "--json"]
        picture = secured.folder / "a.png"
        picture.write_bytes(IMAGE)
        found = subprocess.run(
            [*STINGY, "predict", picture, *options, "--ca", secured.ca],
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(found.stdout)["model"] == "digits"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_T1_old_versions_and_plain_http_get_no_answer(
    bundle: Path, secured: Secured, version: ssl.TLSVersion
) -> None:
    port, rpc = free_port(), free_port()
    options = ("--metrics-port", str(port), "--grpc-port", str(rpc))
    with served(bundle, *options, state=secured.state, **secured.environment) as (url, process):
        context = secured.context()
        context.minimum_version = context.maximum_version = version
        with secured.shaken(url, context) as connection:
            assert secured.request(connection) == 200
            assert connection.version() == version.name.replace("_", ".")
        old = secured.context()
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, OSError)), secured.shaken(url, old):
            pass
        with connected(url.replace("https", "http")) as plain:
            plain.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP" not in until_closed(plain)
        assert counted(port)["handshake"] >= 1
        for sent in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x00\x01\xff"):
            with connected(f"http://127.0.0.1:{rpc}") as plain:
                plain.sendall(sent + bytes(100))
                assert b"HTTP" not in until_closed(plain)
        process.terminate()
        assert process.wait(60) == 0
        assert log_of(process) == []


def test_T1_last_response_arrives_whole_and_ends_with_tls(bundle: Path, secured: Secured) -> None:
    with served(bundle, state=secured.state, **secured.environment) as (url, _):
        for sent in (b"GET /v1/usage HTTP/1.0\r\n\r\n", b"GET / HTTP/9\r\n\r\n" + bytes(2000)):
            with secured.shaken(url) as connection:
                started = time.monotonic()
                connection.sendall(sent)
                received = b""
                while more := connection.recv(65_536):  # an end without TLS's own would raise
                    received += more
                assert received.startswith((b"HTTP/1.1 401", b"HTTP/1.1 400"))
                assert time.monotonic() - started < 3


def test_T2_slow_handshakes_end_by_the_time_of_a_head(bundle: Path, secured: Secured) -> None:
    with served(bundle, state=secured.state, **secured.environment, **HEADERS) as (url, _):
        for first in (b"", b"\x16\x03\x01\x02\x00\x01"):
            with connected(url) as connection:
                started = time.monotonic()
                connection.sendall(first)
                assert until_closed(connection) == b""
                assert 0.5 < time.monotonic() - started < 10
        with secured.shaken(url) as connection:  # complete, and then silent
            started = time.monotonic()
            assert until_closed(connection) == b""
            assert 0.5 < time.monotonic() - started < 10


def test_T2_silent_handshakes_leave_room_for_customers(bundle: Path, secured: Secured) -> None:
    port = free_port()
    with (
        served(
            bundle,
            *("--metrics-port", str(port)),
            state=secured.state,
            files=FEW_FILES,
            **secured.environment,
        ) as (url, process),
        ExitStack() as stack,
    ):
        customers = [stack.enter_context(secured.shaken(url)) for _ in range(20)]
        for connection in customers:
            assert secured.request(connection) == 200
        with silent_crowd(url):
            for _ in range(20):
                with secured.shaken(url) as connection:
                    assert secured.request(connection) == 200
            assert open_files(process) < 250
            drops = counted(port)
    assert drops["headless"] >= SILENT - 256
    assert "customer" not in drops


@pytest.mark.parametrize("workers", [1, 2])
def test_T3_renewal_reaches_new_connections_and_ends_none(
    bundle: Path, secured: Secured, workers: int
) -> None:
    rates = {"STINGY_RATE_STORE": "redis://127.0.0.1:1"} if workers > 1 else {}
    with (
        served(
            bundle,
            *("--workers", str(workers)),
            state=secured.state,
            **secured.environment,
            **rates,
        ) as (url, process),
        secured.ready(url),
        secured.shaken(url) as before,
    ):
        assert secured.request(before) == 200
        secured.chain.write_bytes(b"broken")  # the old pair stays in use
        queried = time.monotonic()
        while time.monotonic() - queried < 12:
            assert secured.serial(url) == secured.pair.serial
            assert secured.request(before) == 200
            time.sleep(1)
        new = secured.authority.issue()
        new.write(secured.folder / "tls")
        deadline = time.monotonic() + 60
        while any(secured.serial(url) != new.serial for _ in range(8)):
            assert time.monotonic() < deadline
            assert secured.request(before) == 200
            time.sleep(0.5)
        assert secured.request(before) == 200
        before.close()
        process.terminate()
        assert process.wait(60) == 0
        assert process.stderr is not None
        # Once a worker. One that starts meanwhile does not serve, and is tried later.
        assert 1 <= process.stderr.read().count("the old certificate stays in use") <= workers


def test_P6_certificate_without_its_key_stops_the_start(bundle: Path, secured: Secured) -> None:
    other = secured.authority.issue()
    wrong = secured.folder / "other.pem"
    wrong.write_bytes(other.key)
    cases = {
        "tls_cert, tls_key: expected": {"STINGY_TLS_KEY": str(wrong)},
        "tls_key: expected a readable file": {"STINGY_TLS_KEY": str(secured.folder / "none")},
    }
    for fault, changed in cases.items():
        found = start(bundle, secured, secured.environment | changed)
        assert (found.returncode, fault in found.stderr) == (2, True), found.stderr
    found = start(bundle, secured, {"STINGY_TLS_CERT": str(secured.chain)})
    assert found.returncode == 2
    assert "tls_key: expected a file beside tls_cert, got none" in found.stderr


def start(
    bundle: Path, secured: Secured, environment: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*STINGY, "serve", bundle, "--state", secured.state, "--port", "0"],
        env=server_environment() | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_H6_drain_waits_for_no_silent_client_of_tls(bundle: Path, secured: Secured) -> None:
    with (
        served(bundle, state=secured.state, **secured.environment) as (url, process),
        ExitStack() as stack,
    ):
        silent: list[socket.socket] = [stack.enter_context(connected(url)) for _ in range(5)]
        idle = stack.enter_context(secured.shaken(url))
        assert secured.request(idle) == 200
        time.sleep(0.5)
        process.terminate()
        assert process.wait(15) == 0
        for connection in silent:
            assert until_closed(connection) == b""


def wide_bundle(secured: Secured) -> Path:
    """Make a bundle whose answers are longer than all buffers."""
    return make_bundle(secured.folder / "b", policy="stingy:n=1999", num_classes=2000)


def test_last_answer_reaches_a_slow_reader_over_tls(secured: Secured) -> None:
    body = json.dumps(tensor(random_images(256))).encode()
    request = head(secured.secret, f"Content-Length: {len(body)}", "Connection: close")
    request = request.replace(b"/v1/predict/digits", b"/v2/models/digits/infer")
    with (
        served(
            wide_bundle(secured),
            state=secured.state,
            STINGY_ALLOW_OPEN="true",
            **secured.environment,
        ) as (
            url,
            _,
        ),
        deaf(url) as plain,
        secured.context().wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(request + b"\r\n" + body)
        received = connection.recv(1000)
        time.sleep(CLOSE_S + 3)
        while more := connection.recv(65_536):  # an end without TLS's own would raise
            received += more
    lines, _, content = received.partition(b"\r\n\r\n")
    assert lines.startswith(b"HTTP/1.1 200")
    assert len(content) == int(lines.partition(b"content-length: ")[2].partition(b"\r\n")[0])


def test_H3_client_of_tls_that_never_reads_is_disconnected(secured: Secured) -> None:
    body = json.dumps(tensor(random_images(256))).encode()
    request = head(secured.secret, f"Content-Length: {len(body)}")
    request = request.replace(b"/v1/predict/digits", b"/v2/models/digits/infer")
    options = {"STINGY_ALLOW_OPEN": "true", "STINGY_BODY_TIMEOUT_S": "1"} | secured.environment
    with (
        served(wide_bundle(secured), state=secured.state, **options) as (url, _),
        deaf(url) as plain,
        secured.context().wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(request + b"\r\n" + body)
        started = time.monotonic()
        while server_end(connection):
            assert time.monotonic() - started < 15
            time.sleep(0.05)
        assert time.monotonic() - started > 1


def test_uploads_of_several_clients_work_over_tls(bundle: Path, secured: Secured) -> None:
    large = png(random_images(1, size=900)[0])
    with served(bundle, state=secured.state, **secured.environment) as (url, _):
        headers = {"Authorization": f"Bearer {secured.secret}"}
        with httpx.Client(base_url=url, headers=headers, verify=secured.context()) as client:
            results: list[int] = []

            def query() -> None:
                for _ in range(5):
                    response = client.post("/v1/predict/digits", content=large, timeout=30)
                    results.append(response.status_code)

            threads = [threading.Thread(target=query) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert results == [200] * 20
