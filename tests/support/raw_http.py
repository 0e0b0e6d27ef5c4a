"""HTTP byte by byte over a socket: half a head, a trickled body, a client that reads nothing."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    address = httpx.URL(url)
    assert address.port is not None
    with socket.create_connection((address.host, address.port), timeout=15) as connection:
        yield connection


@contextmanager
def deaf(url: str) -> Iterator[socket.socket]:
    """Open a connection whose client reads nothing, with small buffers on both sides."""
    address = httpx.URL(url)
    assert address.port is not None
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # The server's buffer is a multiple of the segments' size.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        connection.settimeout(15)
        connection.connect((address.host, address.port))
        yield connection


def server_end(connection: socket.socket) -> list[str] | None:
    """Find the server's end in the table of connections of Linux, while it is open.

    The client itself cannot notice that it was closed before it has read everything.
    """
    try:
        ends = (connection.getpeername(), connection.getsockname())
    except OSError:  # it was reset
        return None
    address, own = (f":{end[1]:04X}" for end in ends)
    for row in map(str.split, Path("/proc/net/tcp").read_text().splitlines()):
        if row[1].endswith(address) and row[2].endswith(own) and row[3] == "01":
            return row
    return None


def head(key: str, *more: str) -> bytes:
    lines = ["POST /v1/predict/digits HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *more]
    return "".join(f"{line}\r\n" for line in lines).encode()


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Return the status and body of one answer, however it comes in pieces.

    What comes behind the answer is left unread.
    """
    lines = b""
    while not lines.endswith(b"\r\n\r\n"):
        lines += _receive(connection, 1)
    length = int(lines.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += _receive(connection, length - len(body))
    return int(lines.split()[1]), body


def _receive(connection: socket.socket, most: int) -> bytes:
    received = connection.recv(most)
    assert received, "the connection ended before its answer"
    return received


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
