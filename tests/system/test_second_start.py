"""A second start on an address that is taken: refused, and nothing of the first one changes."""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from serving import (
    STINGY,
    free_port,
    make_bundle,
    make_key,
    make_settings,
    png,
    random_images,
    served,
    server_environment,
)
from stingy_clients import Client
from stingy_server import (
    ConfigurationError,
    Database,
    Settings,
    StoreUnavailable,
    create_app,
    serve,
)
from stingy_server.store.backends.schema import FIRST_VERSION

IMAGE = png(random_images(1)[0])
RELEASED = Path(__file__).parents[1] / "server" / "store" / "fixtures" / "state_0_1_0"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "digits")


def start(
    bundle: Path, *options: str | Path, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*STINGY, "serve", bundle, *options],
        env=server_environment() | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def content(folder: Path) -> dict[str, tuple[int, str]]:
    """Return the time of change and a digest of each file, without the locks of SQLite."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


@contextlib.contextmanager
def frozen(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Stop a server and its workers, which write to the state once a second, for a while."""
    pids = [process.pid, *children(process.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def children(pid: int) -> list[int]:
    found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [each for child in found for each in children(child)]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_P6_start_on_a_taken_port_touches_nothing(
    tmp_path: Path, bundle: Path, workers: str, request: pytest.FixtureRequest
) -> None:
    state, metrics_port = tmp_path / "state", str(free_port())
    key = make_key(state)
    environment = {}
    if workers != "1":
        environment["STINGY_RATE_STORE"] = request.getfixturevalue("own_redis").address
    ports = ("--metrics-port", metrics_port, "--workers", workers)
    with (
        served(bundle, *ports, state=state, **environment) as (url, process),
        Client(url, key, timeout=60) as client,
    ):
        client.predict(IMAGE, model="digits")
        port = url.rpartition(":")[2]
        with frozen(process):
            before = content(state)
            second = start(bundle, "--state", state, "--port", port, *ports, **environment)
            assert content(state) == before
        assert second.returncode == 2
        assert "Traceback" not in second.stderr
        faults = [line for line in second.stderr.splitlines() if "cannot listen here" in line]
        assert [fault.split(": ")[0] for fault in faults] == [
            f"127.0.0.1:{port}",
            f"127.0.0.1:{metrics_port}",
        ]
        client.predict(IMAGE, model="digits")


def test_P6_start_with_faults_migrates_no_state(tmp_path: Path, bundle: Path) -> None:
    state = tmp_path / "state"
    shutil.copytree(RELEASED, state)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert start(bundle, "--state", state, "--port", port).returncode == 2
    with closing(sqlite3.connect(state / "stingy.sqlite3")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (FIRST_VERSION,)


def test_P6_faults_of_the_state_are_named_beside_others(tmp_path: Path) -> None:
    Database(tmp_path / "state").close()
    (tmp_path / "state" / "pepper").write_bytes(bytes(32))
    with pytest.raises(ConfigurationError) as error:
        create_app(Settings(state=tmp_path / "state"), faults=["port: taken"])
    assert [word for word in ("port", "pepper") if word in str(error.value)] == ["port", "pepper"]


@pytest.mark.parametrize("busy", ["port", "metrics_port"])
def test_P6_address_taken_while_models_load_is_a_fault(
    tmp_path: Path, bundle: Path, busy: str
) -> None:
    """Take an address between its binding and the listening, as a start at the same time does."""
    ports = {"port": free_port(), "metrics_port": free_port()}
    settings = make_settings(tmp_path / "state", bundle, **ports)
    with contextlib.ExitStack() as stack, socket.socket() as other:
        listener, faults = serve._bind(settings.host, settings.port, stack)
        metrics_port, more = serve._bind_metrics(settings)
        assert metrics_port is not None
        stack.callback(metrics_port.server_close)
        assert faults + more == []
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", ports[busy]))
        other.listen()
        service = create_app(settings).state.service
        with pytest.raises(ConfigurationError, match=f"{ports[busy]}: cannot listen here"):
            serve._listen(listener, metrics_port, service)
        with pytest.raises(StoreUnavailable):
            service.database.execute("SELECT 1")
