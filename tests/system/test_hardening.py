"""Hostile connections to a real server without a proxy, and several workers on one budget."""

import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving import (
    STINGY,
    free_port,
    make_bundle,
    make_key,
    png,
    random_images,
    served,
    server_environment,
)
from stingy_clients import BudgetExhausted, Client, ClientError
from stingy_server import Database, Keys
from stingy_server.store.ledger import Ledger

IMAGE = png(random_images(1)[0])
PATIENCE = {"STINGY_HEADER_TIMEOUT_S": "1", "STINGY_BODY_TIMEOUT_S": "2"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "digits", policy="stingy:n=2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[tuple[str, str]]:
    """The address of a hurried server, and a key."""
    state = tmp_path_factory.mktemp("server") / "state"
    key = make_key(state)
    with served(bundle, state=state, **PATIENCE) as (url, _):
        yield url, key


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    address = httpx.URL(url)
    assert address.port is not None
    with socket.create_connection((address.host, address.port), timeout=15) as connection:
        yield connection


@contextmanager
def deaf(url: str) -> Iterator[socket.socket]:
    """A connection whose client has room for a few answers, and reads none."""
    address = httpx.URL(url)
    assert address.port is not None
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(15)
        connection.connect((address.host, address.port))
        yield connection


REQUESTS = 15_000  # of which the buffers of both sides have room for some 8,000 answers


def server_end(connection: socket.socket) -> list[str] | None:
    """Find the server's end in the table of connections of Linux, while it is open.

    The client itself cannot notice that it was closed before it has read everything.
    """
    address, own = (
        f":{end[1]:04X}" for end in (connection.getpeername(), connection.getsockname())
    )
    for row in map(str.split, Path("/proc/net/tcp").read_text().splitlines()):
        if row[1].endswith(address) and row[2].endswith(own) and row[3] == "01":
            return row
    return None


def unsent(connection: socket.socket) -> int:
    """Count the bytes that the server has written and the client has no room for."""
    row = server_end(connection)
    assert row is not None, "the server closed it"
    return int(row[4].partition(":")[0], 16)


def await_stuck(connection: socket.socket) -> None:
    """Wait until the server has filled the buffers of both sides, and waits itself."""
    before, waiting = 0, unsent(connection)
    while not 0 < waiting == before:
        time.sleep(0.5)
        before, waiting = waiting, unsent(connection)


def send_requests(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * REQUESTS)


def head(key: str, *more: str) -> bytes:
    lines = ["POST /v1/predict/digits HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *more]
    return "".join(f"{line}\r\n" for line in lines).encode()


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """The status and body of one answer, however it comes in pieces."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65_536)
    lines, _, body = received.partition(b"\r\n\r\n")
    length = int(lines.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65_536)
    return int(lines.split()[1]), body


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    try:
        while more := connection.recv(65_536):
            received += more
    except ConnectionResetError:
        pass
    return received


def trickle(connection: socket.socket, data: bytes, *, every_s: float) -> float:
    """Send a byte at a time; the seconds until the other side has had enough."""
    started = time.monotonic()
    try:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(every_s)
    except (BrokenPipeError, ConnectionResetError):
        return time.monotonic() - started
    raise AssertionError("the server took it all")


def test_H3_a_silent_connection_is_closed(server: tuple[str, str]) -> None:
    with connected(server[0]) as connection:
        started = time.monotonic()
        assert until_closed(connection) == b""
        assert 0.5 < time.monotonic() - started < 15


def test_H3_a_trickled_head_is_closed(server: tuple[str, str]) -> None:
    url, key = server
    with connected(url) as connection:
        assert trickle(connection, head(key, "X-A: " + "a" * 1000), every_s=0.05) < 20


def test_H3_a_trickled_head_after_an_answer_is_closed_too(server: tuple[str, str]) -> None:
    url, key = server
    with connected(url) as connection:
        connection.sendall(head(key, f"Content-Length: {len(IMAGE)}") + b"\r\n" + IMAGE)
        assert answer(connection)[0] == 200
        assert trickle(connection, head(key, "X-A: " + "a" * 1000), every_s=0.05) < 20


def test_H3_who_sends_empty_lines_after_an_answer_is_cut_off(server: tuple[str, str]) -> None:
    url, _ = server
    with connected(url) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer(connection)[0] == 200
        assert trickle(connection, b"\r\n" * 500, every_s=0.02) < 15


def test_H3_who_has_no_key_holds_no_connection_with_a_body_to_come(
    server: tuple[str, str],
) -> None:
    for sent in (b"x", b"x" * 1000):  # then silent, or a byte at a time
        with connected(server[0]) as connection:
            connection.sendall(head("", "Content-Length: 100000") + b"\r\n")
            assert answer(connection)[0] == 401
            if len(sent) == 1:
                connection.sendall(sent)
                assert until_closed(connection) == b""
            else:
                assert 1.5 < trickle(connection, sent, every_s=0.02) < 15


def test_H12_a_body_that_is_refused_at_once_may_end_and_the_connection_goes_on(
    server: tuple[str, str],
) -> None:
    url, key = server
    with connected(url) as connection:
        connection.sendall(head("", "Content-Length: 500000") + b"\r\n")
        assert answer(connection)[0] == 401
        for _ in range(5):
            connection.sendall(bytes(100_000))
            time.sleep(0.3)  # longer in all than a head may take
        connection.sendall(head(key, f"Content-Length: {len(IMAGE)}") + b"\r\n" + IMAGE)
        assert answer(connection)[0] == 200


def test_H4_a_head_behind_a_refused_body_is_bounded_too(bundle: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    key = make_key(state)
    patient = {"STINGY_HEADER_TIMEOUT_S": "60"}
    with served(bundle, state=state, **patient) as (url, _), connected(url) as connection:
        connection.sendall(head("", "Content-Length: 1") + b"\r\n")
        assert answer(connection)[0] == 401
        connection.sendall(b"x" + head(key, "X-A: "))
        time.sleep(0.1)
        for _ in range(2):
            connection.sendall(b"a" * 12_000)
            time.sleep(0.1)
        assert trickle(connection, b"a" * 600, every_s=0.05) < 30


def test_H3_a_trickled_body_is_refused(server: tuple[str, str]) -> None:
    url, key = server
    with connected(url) as connection:
        connection.sendall(head(key, "Content-Length: 1000") + b"\r\n")
        started = time.monotonic()
        thread = threading.Thread(target=_ignore, args=(trickle, connection))
        thread.start()
        status, body = answer(connection)
        assert (status, json.loads(body)["error"]["code"]) == (408, "timed_out")
        assert time.monotonic() - started < 15
        connection.close()
        thread.join(10)


def _ignore(work: Callable[..., float], connection: socket.socket) -> None:
    try:
        work(connection, bytes(1000), every_s=0.05)
    except (OSError, AssertionError):
        return


def test_H12_many_requests_sent_at_once_are_all_answered(server: tuple[str, str]) -> None:
    with connected(server[0]) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
        received = b""
        while received.count(b"HTTP/1.1 401") < 2000:
            received += (more := connection.recv(65_536))
            assert more, "closed before all were answered"


def test_H3_who_never_reads_is_cut_off(server: tuple[str, str]) -> None:
    with deaf(server[0]) as connection:
        send_requests(connection)
        while server_end(connection):
            time.sleep(0.05)
        assert 0 < until_closed(connection).count(b"HTTP/1.1 401") < REQUESTS


def test_H5_who_never_reads_takes_no_place_without_a_key(bundle: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    key = make_key(state)
    with served(bundle, state=state, STINGY_MAX_CONCURRENCY="1") as (url, _), ExitStack() as stuck:
        deafened = [stuck.enter_context(deaf(url)) for _ in range(2)]
        for connection in deafened:
            send_requests(connection)
        for connection in deafened:
            await_stuck(connection)
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{url}/v1/usage", headers=headers).status_code == 200
        assert httpx.get(f"{url}/v2/health/live").status_code == 200


def test_H3_slow_senders_do_not_slow_an_honest_client(server: tuple[str, str]) -> None:
    url, key = server

    def worst() -> float:
        seconds = []
        with Client(url, key) as client:
            for _ in range(100):
                started = time.perf_counter()
                client.predict(IMAGE, model="digits")
                seconds.append(time.perf_counter() - started)
        return sorted(seconds)[95]

    worst()
    before = worst()
    with ExitStack() as slow:
        for _ in range(200):
            slow.enter_context(connected(url)).sendall(b"POST /v1/pre")
        beside = worst()
    assert beside < 3 * max(before, worst()) + 0.1


@pytest.mark.parametrize(
    "more",
    [
        ["X-A: " + "a" * 65_536],
        [f"X-{number}: a" for number in range(1000)],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: -1"],
        ["X-A: a\0b"],
        [" X-A: folded"],
    ],
    ids=["64 KB", "1000 fields", "length and chunked", "two lengths", "negative", "NUL", "folded"],
)
def test_H4_hostile_heads_are_refused_and_the_connection_ends(
    server: tuple[str, str], more: list[str]
) -> None:
    url, key = server
    with connected(url) as connection:
        try:
            connection.sendall(head(key, *more) + b"\r\n" + b"GET /smuggled HTTP/1.1\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return
        received = until_closed(connection)
        assert received == b"" or received.startswith(b"HTTP/1.1 4")
        assert received.count(b"HTTP/1.1") <= 1


@pytest.mark.parametrize(
    "target",
    [
        "http://x/v1/usage",
        "http://x/v2/health/live?/v1/usage",
        "//v1/usage",
        "/v2/health/live/../../../v1/usage",
        "/v2/health/live;/v1/usage",
        "/v2/health/live%2f..%2f..%2f..%2fv1%2fusage",
        "/%76%31/usage",
        "v1/usage",
        "*",
    ],
)
def test_A2_no_form_of_the_target_and_no_forwarding_header_opens_a_route(
    server: tuple[str, str], target: str
) -> None:
    lines = (
        f"GET {target} HTTP/1.1",
        "Host: x/v2/health/live?",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Prefix: /v2/health/live",
        "X-Original-URL: /v2/health/live",
        "X-HTTP-Method-Override: OPTIONS",
        "Connection: close",
    )
    with connected(server[0]) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n")
        received = until_closed(connection)
    assert b"budget" not in received
    if received.startswith(b"HTTP/1.1 200"):
        assert received.endswith(b'{"live":true}')
    else:
        assert received[:12] in (b"HTTP/1.1 401", b"HTTP/1.1 400")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "BREW"])
def test_H12_odd_methods_are_refused(server: tuple[str, str], method: str) -> None:
    url, key = server
    with connected(url) as connection:
        request = head(key).replace(b"POST", method.encode(), 1)
        connection.sendall(request + b"Connection: close\r\n\r\n")
        assert until_closed(connection)[:10] == b"HTTP/1.1 4"


def test_H12_a_connection_goes_on_after_each_refusal(server: tuple[str, str]) -> None:
    url, key = server
    bad = head(key, "Content-Length: 1") + b"\r\nx"
    good = head(key, f"Content-Length: {len(IMAGE)}") + b"\r\n" + IMAGE
    with connected(url) as connection:
        for _ in range(3):
            connection.sendall(bad)
            assert answer(connection)[0] == 415
            connection.sendall(good)
            assert answer(connection)[0] == 200


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """The address of a Redis of our own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server (apt-get install redis-server)")
    port = free_port()
    process = subprocess.Popen(
        [program, "--port", str(port), "--save", "", "--dir", tmp_path, "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
    )
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    yield f"redis://127.0.0.1:{port}"
    process.terminate()
    process.wait()


def test_several_workers_share_one_budget_one_rate_and_their_counters(
    tmp_path: Path, bundle: Path, redis: str
) -> None:
    state, metrics_port = tmp_path / "state", free_port()
    budgeted = make_key(state, budget=150)
    rated = make_key(state, rate="60/hour")
    options = ("--workers", "2", "--metrics-port", str(metrics_port))
    with served(bundle, *options, state=state, STINGY_RATE_STORE=redis) as (url, process):
        _wait_ready(url)

        def count_answered(key: str) -> int:
            answered = 0
            with Client(url, key, retries=0) as client:
                for _ in range(100):
                    try:
                        client.predict(IMAGE, model="digits")
                        answered += 1
                    except ClientError as error:
                        assert getattr(error, "status", 0) == 429  # noqa: PT017
            return answered

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(count_answered, [budgeted] * 4)) == 150
            assert sum(pool.map(count_answered, [rated] * 4)) == 60
        page = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
        counted = {
            sample.name: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.labels == {"model": "digits"}
        }
        process.send_signal(signal.SIGHUP)  # drains as SIGTERM does: no worker is started anew
        assert process.wait(30) == 0
    with closing(Database(state)) as database:
        booked = sum(entry.answered for _, entry in Ledger(database).entries())
        used = sum(budget.used for _, budget in Keys(database).all())
    assert counted["stingy_images_answered_total"] == booked == used == 210  # Q8


def _wait_ready(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the workers did not start")


def test_several_workers_over_the_memory_of_each_are_refused(tmp_path: Path, bundle: Path) -> None:
    done = subprocess.run(
        [*STINGY, "serve", bundle, "--workers", "2", "--state", tmp_path / "state", "--port", "0"],
        env=server_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "rate_store" in done.stderr


def test_H7_a_killed_worker_is_replaced_and_the_books_stay_exact(
    tmp_path: Path, bundle: Path, redis: str
) -> None:
    state = tmp_path / "state"
    key = make_key(state, budget=400)
    with served(bundle, "--workers", "2", state=state, STINGY_RATE_STORE=redis) as (url, process):
        _wait_ready(url)
        answered = 0
        with Client(url, key, retries=0) as client:
            for number in range(3000):
                if number == 50:
                    subprocess.run(["pkill", "-KILL", "-P", str(process.pid), "-o"], check=False)
                try:
                    client.predict(IMAGE, model="digits")
                    answered += 1
                except BudgetExhausted:
                    break
                except ClientError:
                    time.sleep(0.01)
    with closing(Database(state)) as database:
        ((_, budget),) = Keys(database).all()
    assert budget.used == 400
    assert 398 <= answered <= 400  # what was in flight at the kill is charged, not answered
