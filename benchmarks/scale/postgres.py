"""A PostgreSQL of the benchmark's own, on a free port of loopback, gone when the block ends."""

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

DEBIAN = "/usr/lib/postgresql/*/bin"


@dataclass(frozen=True)
class Running:
    """Where it listens, and its first process."""

    address: str
    pid: int
    version: str


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`, or None where PostgreSQL is not installed."""
    return next((Path(found) for found in sorted(glob.glob(DEBIAN), reverse=True)), None)


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Running]:
    """A fresh cluster with the defaults, but for the number of connections."""
    # It refuses to run as root.
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if not os.getuid() else {}
    home = Path(tempfile.mkdtemp(prefix="stingy-postgres-"))
    try:
        if user:
            shutil.chown(home, "postgres", "postgres")
        data = home / "data"
        subprocess.run(  # noqa: S603
            [folder / "initdb", "--pgdata", data, "--auth", "trust", "--username", "stingy"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=home,
            **user,
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": home,
            "max_connections": 200,
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(  # noqa: S603
                [folder / "postgres", "-D", data, *flags], stdout=log, stderr=log, cwd=home, **user
            )
        address = f"host=127.0.0.1 port={port} user=stingy dbname=postgres"
        try:
            yield Running(address, server.pid, _ready(address))
        finally:
            server.terminate()
            server.wait(timeout=60)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _ready(address: str) -> str:
    """Its version, once it answers."""
    for _ in range(600):
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(address) as connection:
            version = connection.execute("SHOW server_version").fetchone()
            return str(version[0]) if version else ""
        time.sleep(0.1)
    raise TimeoutError("expected PostgreSQL to answer within a minute, got nothing")
