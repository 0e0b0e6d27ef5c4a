"""A temporary PgBouncer in transaction mode, before a PostgreSQL of the tests."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from postgres import Running
from serving import free_port

SBIN = "/usr/sbin"  # where Debian installs it, outside of the path of most users


def program() -> str | None:
    """Find `pgbouncer`. Return None if it is not installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:{SBIN}")


@contextlib.contextmanager
def pgbouncer(program: str, server: Running) -> Iterator[int]:
    """Run a pool with the default settings of transaction mode, and yield its port.

    It has two connections to each database, so that a client's transactions come to different ones.
    """
    home = Path(tempfile.mkdtemp(prefix="stingy-pgbouncer-"))
    port = free_port()
    (home / "users").write_text('"stingy" ""\n')
    (home / "ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {home}/users\n"
        "pool_mode = transaction\ndefault_pool_size = 2\n"
    )
    user = [] if os.getuid() else ["--user", "postgres"]  # it refuses to run as root
    if user:
        for path in (home, home / "users", home / "ini"):
            shutil.chown(path, "postgres", "postgres")
    process = subprocess.Popen(
        [program, "--quiet", *user, home / "ini"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)
