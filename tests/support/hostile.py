"""Model servers that behave badly, on raw sockets. The test determines every byte they send."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Behaviour = Callable[[socket.socket, bytes], None]
"""The treatment of a connection after one request, head and body, has been read."""


@contextmanager
def upstream(behaviour: Behaviour, *, port: int = 0) -> Iterator[str]:
    """Run a server that treats every connection so, and give its address."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(target=_accept, args=(listener, behaviour), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v2/models/digits"
        listener.shutdown(socket.SHUT_RDWR)  # closing alone would not wake `accept`


def _accept(listener: socket.socket, behaviour: Behaviour) -> None:
    with suppress(OSError):  # the test is over
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, behaviour), daemon=True).start()


def _serve(connection: socket.socket, behaviour: Behaviour) -> None:
    with connection, suppress(OSError):
        while request := _request(connection):
            behaviour(connection, request)


def _request(connection: socket.socket) -> bytes:
    """Read one request, head and body. Return nothing if the client has left."""
    read = b""
    while b"\r\n\r\n" not in read:
        piece = connection.recv(65536)
        if not piece:
            return b""
        read += piece
    head, _, body = read.partition(b"\r\n\r\n")
    lengths = (
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    length = next(lengths, 0)
    while len(body) < length:
        piece = connection.recv(65536)
        if not piece:
            return b""
        body += piece
    return head + b"\r\n\r\n" + body


def says(body: bytes, *headers: str, status: str = "200 OK") -> Behaviour:
    """Make a behaviour that answers every request with this body."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]

    def behaviour(connection: socket.socket, request: bytes) -> None:
        connection.sendall("\r\n".join(lines).encode() + body)

    return behaviour


def document(*outputs: dict[str, object]) -> bytes:
    """Encode an inference response in JSON."""
    return json.dumps({"model_name": "digits", "outputs": outputs}).encode()


def tensor(name: str, datatype: str, shape: list[int], data: object) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def hangs(connection: socket.socket, request: bytes) -> None:
    time.sleep(60)


def hangs_up(connection: socket.socket, request: bytes) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def resets_half_way(connection: socket.socket, request: bytes) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"outputs"')
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def trickles(connection: socket.socket, request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.05)


def floods(connection: socket.socket, request: bytes) -> None:
    """Send a gigabyte, if the client reads it."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    for _ in range(1024):
        connection.sendall(chunk)
