"""The server of a page in a process of its own: on loopback alone, and Enter prints an address."""

import os
import pty
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stingy_server.loopback.access import Access
from stingy_server.loopback.runner import bind, page_address

PROGRAM = """
from starlette.responses import PlainTextResponse
from stingy_server.loopback.access import Access
from stingy_server.loopback.runner import bind, page_address, run_page

access, listener = Access(), bind()

def show() -> None:
    print(page_address(listener, access), flush=True)

show()
run_page(PlainTextResponse("the page"), listener, access=access, another="", on_enter=show)
"""


@pytest.fixture(scope="module")
def terminal_and_page() -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Run a page in a terminal of its own. Give the terminal's other end, and the process."""
    keyboard, terminal = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-c", PROGRAM],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(terminal)
    try:
        yield keyboard, process
    finally:
        process.terminate()
        process.communicate(timeout=10)
        os.close(keyboard)


def read_address(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def get(address: str, client: httpx.Client) -> httpx.Response:
    """Open an address, as soon as the page listens."""
    for _ in range(100):
        try:
            return client.get(address)
        except httpx.ConnectError:
            time.sleep(0.05)
    raise AssertionError("the page did not listen")


def test_enter_prints_another_address_that_opens_the_page(
    terminal_and_page: tuple[int, "subprocess.Popen[bytes]"],
) -> None:
    keyboard, process = terminal_and_page
    first = read_address(process)
    with httpx.Client() as client:
        assert get(first.partition("?")[0], client).status_code == 401
        os.write(keyboard, b"\n")
        second = read_address(process)
        assert second.partition("?")[0] == first.partition("?")[0]
        assert second != first
        assert get(first, client).status_code == 401
        assert get(second, client).status_code == 200
        assert get(second.partition("?")[0], client).text == "the page"


def test_V2_page_listens_on_loopback_alone() -> None:
    with bind() as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        assert page_address(listener, Access()).startswith(f"http://127.0.0.1:{port}/?token=")
        with socket.socket() as other, pytest.raises(OSError, match="refused"):
            other.connect(("127.0.0.2", port))


def test_taken_port_is_an_error() -> None:
    with bind() as listener, pytest.raises(OSError, match="in use"):
        bind(listener.getsockname()[1])


def test_page_logs_no_token(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            address = read_address(process)
            with httpx.Client() as client:
                assert get(address, client).status_code == 200
                assert get(address, client).status_code == 200
        finally:
            process.terminate()
            process.communicate(timeout=10)
    assert (tmp_path / "log").read_bytes() == b""
