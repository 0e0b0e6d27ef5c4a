"""Connections that pipeline, stay silent or send no HTTP, beside those of customers."""

import re
import socket
import subprocess
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from crowds import FEW_FILES, SILENT, counted, open_files, silent_crowd
from raw_http import answer, connected, head, until_closed
from segments import replies
from serving import free_port, log_of, make_key, png, random_images, served

IMAGE = png(random_images(1)[0])
STRANGER = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def predict_request(key: str) -> bytes:
    return head(key, f"Content-Length: {len(IMAGE)}") + b"\r\n" + IMAGE


def resident_mb(process: "subprocess.Popen[str]") -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+)", status)
    return int(kilobytes) // 1024


def test_C1_two_requests_sent_at_once_are_both_answered(server: tuple[str, str]) -> None:
    url, key = server
    with connected(url) as connection:
        for _ in range(3):
            connection.sendall(STRANGER + predict_request(key))
            assert [answer(connection)[0] for _ in range(2)] == [401, 200]


@pytest.mark.parametrize("count", [3, 2000])
def test_C1_third_request_sent_at_once_ends_the_connection(
    server: tuple[str, str], count: int
) -> None:
    with connected(server[0]) as connection:
        connection.sendall(STRANGER * count)
        received = until_closed(connection)
    assert received.count(b"HTTP/1.1 401") == 2
    assert received.count(b"connection: close") == 1


def test_C1_third_request_does_not_cut_off_answers_of_a_key(server: tuple[str, str]) -> None:
    url, key = server
    found = replies(url, [predict_request(key) * 3])
    assert [status for status, _ in found] == [200, 200]


def test_C1_pipelining_strangers_take_no_memory_and_slow_no_one(
    bundle: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    key = make_key(state)

    def flood(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(STRANGER * 100_000)

    with served(bundle, state=state) as (url, process), ExitStack() as stack:
        headers = {"Authorization": f"Bearer {key}"}
        client = stack.enter_context(httpx.Client(base_url=url, headers=headers))
        assert client.post("/v1/predict/digits", content=IMAGE).status_code == 200
        before = resident_mb(process)
        for _ in range(16):
            connection = stack.enter_context(connected(url))
            threading.Thread(target=flood, args=(connection,), daemon=True).start()
        for _ in range(50):
            assert client.post("/v1/predict/digits", content=IMAGE, timeout=5).status_code == 200
        assert resident_mb(process) - before < 50


def test_C3_silent_connections_leave_room_for_customers(bundle: Path, tmp_path: Path) -> None:
    state, port = tmp_path / "state", free_port()
    key = make_key(state)
    options = ("--metrics-port", str(port))
    with (
        served(bundle, *options, state=state, files=FEW_FILES) as (url, process),
        ExitStack() as stack,
    ):
        customers = [stack.enter_context(connected(url)) for _ in range(20)]
        for connection in customers:
            connection.sendall(predict_request(key))
            assert answer(connection)[0] == 200
        with silent_crowd(url):
            for _ in range(20):
                with connected(url) as connection:
                    connection.sendall(predict_request(key))
                    assert answer(connection)[0] == 200
            assert open_files(process) < 250
            drops = counted(port)
        for connection in customers[:5]:  # idle meanwhile, and not dropped
            connection.sendall(predict_request(key))
            assert answer(connection)[0] == 200
    assert drops["headless"] >= SILENT - 256
    assert "customer" not in drops


@pytest.mark.parametrize("owner", ["stranger", "customer"])
def test_C3_talking_connections_leave_room_for_newcomers(
    bundle: Path, tmp_path: Path, owner: str
) -> None:
    state = tmp_path / "state"
    key, other = make_key(state), make_key(state)
    request = STRANGER if owner == "stranger" else predict_request(other)
    with (
        served(bundle, state=state, files=FEW_FILES) as (url, _),
        ExitStack() as stack,
    ):
        for _ in range(200):  # more than the server keeps open
            connection = stack.enter_context(connected(url))
            connection.sendall(request)
            assert answer(connection)[0] == (401 if owner == "stranger" else 200)
        newcomer = stack.enter_context(connected(url))
        for _ in range(50):
            stack.enter_context(connected(url))
        newcomer.sendall(predict_request(key))
        assert newcomer.recv(12) == b"HTTP/1.1 200"  # nothing, if it was dropped


def test_C3_bytes_of_another_protocol_count_as_no_head(bundle: Path, tmp_path: Path) -> None:
    state, port = tmp_path / "state", free_port()
    key = make_key(state)
    options = ("--metrics-port", str(port))
    with (
        served(bundle, *options, state=state, files=FEW_FILES) as (url, _),
        ExitStack() as stack,
    ):
        for sent in (b"\x16\x03\x01\x02\x00\x01", b"GET / HT", b"\r\n\r\n", b"SSH-2.0-x\r\n"):
            for _ in range(SILENT // 4):
                stack.enter_context(connected(url)).sendall(sent)
        with connected(url) as connection:
            connection.sendall(predict_request(key))
            assert answer(connection)[0] == 200
        assert counted(port).keys() >= {"headless"}


@pytest.mark.parametrize("workers", [1, 2])
def test_C3_soft_limit_of_files_is_raised(bundle: Path, tmp_path: Path, workers: int) -> None:
    state = tmp_path / "state"
    make_key(state)
    options = ("--workers", str(workers))
    # Several processes need a store of rates. A key without a rate never uses it.
    rates = {"STINGY_RATE_STORE": "redis://127.0.0.1:1"} if workers > 1 else {}
    with served(bundle, *options, state=state, files="128:512", **rates) as (url, process):
        assert httpx.get(f"{url}/v2/health/live", timeout=120).status_code == 200
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert workers == 1 or len(children) >= workers
        for pid in (process.pid, *children):
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.findall(r"Max open files +(\d+) +(\d+)", limits) == [("512", "512")]


def test_C4_malformed_requests_are_counted_and_not_logged(bundle: Path, tmp_path: Path) -> None:
    state, port = tmp_path / "state", free_port()
    make_key(state)
    options = ("--metrics-port", str(port))
    with served(bundle, *options, state=state) as (url, process):
        for _ in range(50):
            for sent in (b"GET / HTTP/9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x1b\r\n\r\n"):
                ((status, _),) = replies(url, [sent])
                assert status == 400
        assert counted(port)["stingy_malformed_requests_total"] == 150
        process.terminate()
        assert process.wait(60) == 0
        assert log_of(process) == []
