"""A real Ray Serve behind HAProxy for the integration tests, on its own ports."""

import importlib.util
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from model_servers import await_ready, free_ports
from serving import SUPPORT, server_environment

PROGRAM = SUPPORT / "ray_program.py"


def needs_ray() -> pytest.MarkDecorator:
    missing = importlib.util.find_spec("ray") is None or importlib.util.find_spec("grpc") is None
    return pytest.mark.skipif(missing, reason="needs ray[serve]: make test-integration")


@dataclass
class RayServe:
    """Our application on Ray, and its folder, by which its processes are recognised."""

    folder: Path
    url: str
    process: "subprocess.Popen[bytes]"

    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", errors="replace")

    def replicas(self, deployment: str) -> list[int]:
        """List the process ids of a deployment, such as `edge` or `digits@1`."""
        # The title of a busy replica continues after its name.
        title_pattern = re.compile(rf"ray::ServeReplica\S*:{re.escape(deployment)}(?![\w@])")
        pids = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                title = (process / "cmdline").read_bytes().rstrip(b"\0 ").decode()
                ours = str(self.folder).encode() in (process / "environ").read_bytes()
            except OSError:  # it has ended
                continue
            if ours and title_pattern.match(title):
                pids.append(int(process.name))
        return sorted(pids)

    def kill(self, deployment: str) -> None:
        """End one replica as a crash would."""
        os.kill(self.replicas(deployment)[0], signal.SIGKILL)

    def deploy(self) -> None:
        """Deploy the settings file's present content, without waiting for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()


@contextmanager
def on_ray(folder: Path) -> Iterator[RayServe]:
    """Run the application that `stingy.toml` in this folder describes."""
    port, metrics_port, stats_port, *_ = range(first := free_ports(4), first + 4)
    environment = server_environment() | {
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",  # it listens on all interfaces
        "RAY_AUTH_TOKEN": secrets.token_hex(),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
    }
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, PROGRAM, str(port), folder / "stingy.toml"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    server = RayServe(folder, url, process)
    try:
        await_ready(process, lambda: "deployed\n" in server.log(), server.log)
        yield server
    finally:
        process.terminate()
        process.communicate(timeout=60)
