"""Crowds of silent connections, and what a server counts of them."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

FEW_FILES = "256:256"
SILENT = 400  # connections, more than FEW_FILES allows
REOPENED_PER_S = 300  # so that a newcomer of a busy machine can still send its head


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
    """Keep many silent connections open, and reopen those that the server closes.

    A server drops the oldest silent connection for each new one. So a newcomer has the time in
    which as many others connect as the server keeps open.
    """
    address, over = httpx.URL(url), threading.Event()
    assert address.port is not None
    place = (address.host, address.port)

    def reopen() -> None:
        crowd: list[socket.socket] = []
        started, opened = time.monotonic(), 0
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
            due = SILENT + REOPENED_PER_S * (time.monotonic() - started)
            while len(crowd) < SILENT and opened < due:
                connection = socket.socket()
                connection.setblocking(False)
                connection.connect_ex(place)
                crowd.append(connection)
                opened += 1
            time.sleep(0.01)
        for connection in crowd:
            connection.close()

    thread = threading.Thread(target=reopen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)
