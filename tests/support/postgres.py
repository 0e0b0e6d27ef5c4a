"""A temporary PostgreSQL on a free port of loopback, removed when the block ends."""

import contextlib
import glob
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

DEBIAN = "/usr/lib/postgresql/*/bin"


@dataclass(frozen=True)
class Running:
    """A running PostgreSQL: its port, and the folders of its programs and its data."""

    port: int
    programs: Path
    data: Path

    @property
    def pid(self) -> int:
        """The id of its first process."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def address(self, database: str = "postgres") -> str:
        return f"postgresql://stingy@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Create an empty database and return its address."""
        name = f"d{secrets.token_hex(6)}"
        # Copied as files, which takes half the time of a copy through the log.
        self._execute(f"CREATE DATABASE {name} STRATEGY FILE_COPY")
        return self.address(name)

    def drop_database(self, address: str) -> None:
        """Drop a database, if the server runs."""
        with contextlib.suppress(psycopg.Error):
            self._execute(f"DROP DATABASE {address.rpartition('/')[2]} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.address(), autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement.encode())

    def stop(self) -> None:
        """Stop as a reboot would, without waiting for clients."""
        self._control("stop", "--mode", "immediate")

    def start(self) -> None:
        self._control("start", "--log", self.data.parent / "log")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all its processes for a while: it accepts connections and answers nothing."""
        self.freeze()
        try:
            yield
        finally:
            self.resume()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        first = self.pid
        os.kill(first, number)  # before the others, so that it starts no new one
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        for pid in map(int, children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _control(self, *words: str | Path) -> None:
        subprocess.run(
            [self.programs / "pg_ctl", "--pgdata", self.data, "--wait", *words],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.data.parent,
            **_user(),
        )


def programs() -> Path | None:
    """Find the folder of `initdb` and `postgres`. Return None if PostgreSQL is not installed."""
    return next((Path(folder) for folder in sorted(glob.glob(DEBIAN), reverse=True)), None)


def _user() -> dict[str, Any]:
    """Return the user of the processes, because PostgreSQL refuses to run as root."""
    return {} if os.getuid() else {"user": "postgres", "group": "postgres", "extra_groups": []}


@contextlib.contextmanager
def postgres(folder: Path, **options: str) -> Iterator[Running]:
    """Run a new cluster with default settings.

    Args:
        folder: the folder of its programs.
        options: the settings that differ, beside the address and the number of connections.
    """
    home = Path(tempfile.mkdtemp(prefix="stingy-postgres-"))
    try:
        if _user():
            shutil.chown(home, "postgres", "postgres")
        data = home / "data"
        subprocess.run(
            [folder / "initdb", "--pgdata", data, "--auth", "trust", "--username", "stingy"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=home,
            **_user(),
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": home,
            "max_connections": 200,
            **options,
        }
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        running = Running(port, folder, data)
        running.start()
        try:
            yield running
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # stopped already
                running.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)
