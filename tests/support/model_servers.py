"""Real TorchServe and MLServer for the integration tests, each with its own ports and folder.

`make test-integration` installs both. If one is missing, its tests are skipped with the reason.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serving import STINGY, SUPPORT, server_environment

ROOT = SUPPORT.parents[1]
MLSERVER = ROOT / ".integration" / "mlserver" / "bin" / "mlserver"
RUNTIME = ROOT / "docs" / "mlserver"
BIN = Path(sys.executable).parent
TORCHSERVE = BIN / "torchserve"
START_S = 120


def needs_torchserve() -> pytest.MarkDecorator:
    missing = [
        program
        for program, installed in {
            "java": shutil.which("java"),
            "torchserve": TORCHSERVE.exists(),
        }.items()
        if not installed
    ]
    reason = f"needs {' and '.join(missing)}: make test-integration"
    return pytest.mark.skipif(bool(missing), reason=reason)


def needs_mlserver() -> pytest.MarkDecorator:
    return pytest.mark.skipif(not MLSERVER.exists(), reason="needs mlserver: make test-integration")


@dataclass
class TorchServe:
    """A running TorchServe and its folder."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def management(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    @property
    def key_file(self) -> Path:
        return self.folder / "key_file.json"

    def token(self, kind: str = "inference") -> dict[str, str]:
        key = json.loads(self.key_file.read_text("utf-8"))[kind]["key"]
        return {"Authorization": f"Bearer {key}"}

    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", errors="replace")

    def await_log(self, text: str) -> None:
        """Wait until the log has a text. Lines of a worker pass TorchServe, so they come late."""
        deadline = time.monotonic() + 20
        while text not in self.log():
            assert time.monotonic() < deadline, f"expected {text!r} in the log, got {self.log()}"
            time.sleep(0.1)

    def restart(self) -> None:
        """Stop TorchServe and start it on the same port, which changes its key."""
        self.stop()
        self.start()

    def start(self) -> None:
        environment = server_environment() | {
            "PATH": f"{BIN}:{os.environ['PATH']}",  # of the workers
            "TMPDIR": str(self.folder),  # of its pid file
            "TEMP": str(self.folder),  # of its workers' sockets
            "LOG_LOCATION": str(self.folder / "logs"),
            "METRICS_LOCATION": str(self.folder / "logs"),
            "OMP_NUM_THREADS": "1",
        }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [TORCHSERVE, "--foreground", "--ncs", "--ts-config", "config.properties"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        await_ready(self.process, self._is_ready, self.log)

    def stop(self) -> None:
        # SIGTERM to the wrapper would leave workers running. TorchServe's own stop ends them.
        subprocess.run(
            [TORCHSERVE, "--stop", "--foreground"],
            cwd=self.folder,
            env=os.environ | {"TMPDIR": str(self.folder)},
            check=True,
            capture_output=True,
            timeout=60,
        )
        self.process.wait(30)

    def _is_ready(self) -> bool:
        """Return true if every model has a worker that has loaded."""
        if not self.key_file.exists():
            return False
        headers = self.token("management")
        models = httpx.get(f"{self.management}/models", headers=headers).json()["models"]
        for model in models:
            address = f"{self.management}/models/{model['modelName']}"
            (described,) = httpx.get(address, headers=headers).json()
            if [worker["status"] for worker in described["workers"]] != ["READY"]:
                return False
        return bool(models)


@contextmanager
def torchserve(*bundles: Path) -> Iterator[TorchServe]:
    """Run TorchServe with these bundles, packed and configured by our own commands."""
    folder = Path(tempfile.mkdtemp(prefix="ts"))  # short: a socket's path has 108 bytes
    for bundle in bundles:
        stingy("torchserve", "archive", bundle, "--export-path", folder / "store", "--allow-open")
    port = free_ports(6)
    stingy(
        *("torchserve", "config", "--model-store", folder / "store"),
        *("--port", str(port), "--out", folder / "config.properties"),
    )
    server = TorchServe(folder, port, process=None)  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@contextmanager
def mlserver(*bundles: Path, runtime: str) -> Iterator[str]:
    """Run MLServer with these bundles in a runtime of docs/mlserver, and give its address."""
    folder = Path(tempfile.mkdtemp(prefix="ml"))
    shutil.copy(RUNTIME / "runtime.py", folder)
    port = free_ports(3)
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    copy_settings("settings.json", folder, **ports)
    for bundle in bundles:
        (folder / bundle.name).mkdir()
        copy_settings(
            "model-settings.json",
            folder / bundle.name,
            name=bundle.name,
            implementation=f"runtime.{runtime}",
            parameters={"uri": str(bundle)},
        )
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [MLSERVER, "start", "."],
            cwd=folder,
            env=server_environment() | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
    try:
        await_ready(
            process,
            lambda: httpx.get(f"{url}/v2/health/ready").status_code == 200,
            lambda: (folder / "log").read_text("utf-8", errors="replace"),
        )
        yield url
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)


def copy_settings(name: str, folder: Path, /, **changes: object) -> None:
    """Copy a file of docs/mlserver, with some values changed."""
    document = json.loads((RUNTIME / name).read_text("utf-8"))
    (folder / name).write_text(json.dumps(document | changes), "utf-8")


def stingy(*arguments: str | Path) -> None:
    """Run a command of ours, which must succeed."""
    done = subprocess.run(
        [*STINGY, *arguments], env=server_environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def await_ready(
    process: "subprocess.Popen[bytes]", ready: Callable[[], bool], log: Callable[[], str]
) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if ready():
                return
        except (httpx.TransportError, ValueError):  # not ready yet, or a key file half written
            pass
        time.sleep(0.5)
    raise AssertionError("the model server did not start:\n" + log())


def free_ports(count: int) -> int:
    """Find consecutive free ports and return the first."""
    for first in range(19000 + os.getpid() % 1000 * 10, 60000, count):
        try:
            for port in range(first, first + count):
                with socket.create_server(("127.0.0.1", port)):
                    pass
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")
