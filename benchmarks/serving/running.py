"""The processes of a server: start under the supervisor, wait for the port, stop all of them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proctree import Usage, usage

SUPERVISE = Path(__file__).with_name("supervise.py")
STOP_TIMEOUT_S = 60.0

# One torch thread a process, no bytecode files, unbuffered logs.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


class NotStarted(Exception):
    """A server did not start; the message gives the reason in one line."""


class Running:
    """The tree of processes of one server."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log

    def usage(self) -> Usage:
        return usage(self._process.pid)

    def alive(self) -> bool:
        return self._process.poll() is None

    def last_log_line(self) -> str:
        """Return the last line of the server's log."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][-200:] if lines else "nothing was logged"


@contextmanager
def running(command: list[str], *, folder: Path, environment: dict[str, str]) -> Iterator[Running]:
    """Run a server in a folder and write its output to `log` there."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, str(SUPERVISE), *command],
            cwd=folder,
            env=os.environ | ENVIRONMENT | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield Running(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports of loopback on which no process listens."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def await_port(server: Running, port: int, *, timeout_s: float) -> None:
    """Wait until the server listens on a port.

    Raises:
        NotStarted: the server ended, or did not listen within `timeout_s` seconds.
    """
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if not server.alive():
            raise NotStarted(f"ended before it listened: {server.last_log_line()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise NotStarted(f"not listening after {timeout_s:.0f} s: {server.last_log_line()}")
