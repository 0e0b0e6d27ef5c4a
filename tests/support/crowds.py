"""Crowds of silent connections, and what a server counts of them."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

FEW_FILES = "256:256"
SILENT = 400  # connections, more than FEW_FILES allows


def open_files(process: "subprocess.Popen[str]") -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def counted(metrics_port: int) -> dict[str, float]:
    """Return the counters of malformed requests and of dropped connections that are not 0."""
    page = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    return {
        sample.labels.get("reason", sample.name): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name in ("stingy_malformed_requests_total", "stingy_connections_dropped_total")
        and sample.value
    }


@contextmanager
def silent_crowd(url: str) -> Iterator[None]:
    """Keep many silent connections open, and reopen each that the server closes."""
    address, over = httpx.URL(url), threading.Event()
    assert address.port is not None
    place = (address.host, address.port)

    def reopen() -> None:
        crowd: list[socket.socket] = []
        while not over.is_set():
            for connection in crowd[:]:
                try:
                    open_still = connection.recv(1) != b""
                except BlockingIOError:
                    open_still = True
                except OSError:
                    open_still = False
                if not open_still:
                    connection.close()
                    crowd.remove(connection)
            while len(crowd) < SILENT:
                connection = socket.socket()
                connection.setblocking(False)
                connection.connect_ex(place)
                crowd.append(connection)
        for connection in crowd:
            connection.close()

    thread = threading.Thread(target=reopen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)
