"""A temporary Redis on a free port of loopback."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving import free_port


@dataclass(frozen=True)
class RunningRedis:
    """A running Redis: its address and its process."""

    address: str
    process: "subprocess.Popen[bytes]"


def program() -> str | None:
    """Find `redis-server`. Return None if it is not installed."""
    return shutil.which("redis-server")


@contextlib.contextmanager
def redis_server(program: str, folder: Path) -> Iterator[RunningRedis]:
    """Run a Redis that keeps nothing, until the block ends."""
    port = free_port()
    process = subprocess.Popen(
        [program, "--port", str(port), "--save", "", "--dir", folder, "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.05)
        yield RunningRedis(f"redis://127.0.0.1:{port}", process)
    finally:
        process.kill()
        process.wait()
