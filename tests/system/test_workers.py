"""Several processes behind one address: the model of a replacement, and the end of all."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from serving import charged, free_port, make_bundle, make_key, png, random_images, served
from stingy_server import Database, Keys
from stingy_server.process.workers import HEARTBEAT_S
from stingy_server.store.ledger import Ledger

pytestmark = pytest.mark.timeout(300)
IMAGE = png(random_images(1)[0])
# Several processes need a store of rates. A key without a rate never uses it.
OPTIONS = ("--workers", "2")
IN_FLIGHT = "stingy_requests_in_flight "
UNREACHABLE_STORE = {"STINGY_RATE_STORE": "redis://127.0.0.1:1"}


class StderrReader(threading.Thread):
    """A thread that collects the stderr of a server while it runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        super().__init__(daemon=True)
        self._process = process
        self.text = ""
        self.start()

    def run(self) -> None:
        assert self._process.stderr is not None
        for line in iter(self._process.stderr.readline, ""):
            self.text += line


def wait_until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition stayed false for {seconds} s"
        time.sleep(0.05)


def worker_ids(process: "subprocess.Popen[str]") -> list[int]:
    """List the ids of the processes that serve, the oldest first."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in _command(child)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def count_starts(state: Path) -> int:
    """Count the processes that have begun to serve."""
    with closing(Database(state)) as database:
        return sum(entry.event == "start" for _, entry in Ledger(database).entries())


def await_workers(state: Path, count: int) -> None:
    """Wait until `count` workers serve and their parent has received a heartbeat of each.

    The parent counts a worker that is killed earlier as one that could not start.
    """
    wait_until(lambda: count_starts(state) == count)
    time.sleep(4 * HEARTBEAT_S)


def refuses_connections(url: str) -> bool:
    try:
        httpx.get(f"{url}/v2/health/ready", timeout=60)
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        return False
    return False


def query(url: str, key: str) -> httpx.Response:
    """Send one request over a new connection, so that any free worker may accept it."""
    return httpx.post(
        f"{url}/v1/predict/digits",
        content=IMAGE,
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )


def classes(url: str, key: str) -> int:
    return len(query(url, key).json()["answers"][0]["classes"])


class RequestThread(threading.Thread):
    def __init__(self, url: str, key: str) -> None:
        super().__init__(daemon=True)
        self._arguments = (url, key)
        self.status = 0
        self.start()

    def run(self) -> None:
        try:
            self.status = query(*self._arguments).status_code
        except httpx.TransportError:
            return


def test_P8_replacement_worker_serves_the_first_bundles_or_ends(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", policy="stingy:n=2")
    manifest = (bundle / "model.json").read_text()
    state = tmp_path / "state"
    key = make_key(state)
    with served(bundle, *OPTIONS, state=state, **UNREACHABLE_STORE) as (url, process):
        stderr = StderrReader(process)
        await_workers(state, 2)
        (bundle / "model.json").write_text(manifest.replace("stingy:n=2", "stingy:n=5"))
        os.kill(worker_ids(process)[0], signal.SIGKILL)
        wait_until(lambda: "the bundle changed since the start" in stderr.text)
        assert {classes(url, key) for _ in range(20)} == {2}  # the other worker goes on
        time.sleep(3)
        assert process.poll() is None
        assert stderr.text.count("changed since the start") <= 3  # with growing delays
        (bundle / "model.json").write_text(manifest)
        wait_until(lambda: count_starts(state) == 3)
        assert len(worker_ids(process)) == 2
        assert {classes(url, key) for _ in range(20)} == {2}
    assert process.returncode == 0


def test_H7_server_without_replaceable_workers_ends_with_a_fault(
    tmp_path: Path,
) -> None:
    bundle = make_bundle(tmp_path / "b")
    state = tmp_path / "state"
    make_key(state)
    with served(bundle, *OPTIONS, state=state, **UNREACHABLE_STORE) as (_, process):
        stderr = StderrReader(process)
        await_workers(state, 2)
        shutil.rmtree(bundle)
        for worker in worker_ids(process):
            os.kill(worker, signal.SIGKILL)
        assert process.wait(60) == 1
    assert "Traceback" not in stderr.text
    assert "expected a bundle, got nothing of this name" in stderr.text


def test_Q8_killed_worker_has_no_request_in_flight(tmp_path: Path) -> None:
    state, port = tmp_path / "state", free_port()
    key = make_key(state)
    slow = make_bundle(tmp_path / "b", factory="sample_networks:Slow", seconds=5.0)
    options = (*OPTIONS, "--metrics-port", str(port))

    def in_flight() -> float:
        page = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        return sum(float(row.split()[1]) for row in page.splitlines() if row.startswith(IN_FLIGHT))

    with served(slow, *options, state=state, **UNREACHABLE_STORE) as (url, process):
        StderrReader(process)
        await_workers(state, 2)
        RequestThread(url, key)
        wait_until(lambda: in_flight() == 1)
        for worker in worker_ids(process):
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: in_flight() == 0)


def test_H6_signal_to_all_processes_still_lets_workers_answer(tmp_path: Path) -> None:
    state = tmp_path / "state"
    key = make_key(state)
    slow = make_bundle(tmp_path / "b", factory="sample_networks:Slow", seconds=2.0)
    with served(slow, *OPTIONS, state=state, **UNREACHABLE_STORE) as (url, process):
        StderrReader(process)
        await_workers(state, 2)
        threads = [RequestThread(url, key) for _ in range(8)]
        wait_until(lambda: charged(state) == 8)
        for pid in (*worker_ids(process), process.pid):  # as Ctrl-C and systemd send it
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: refuses_connections(url))
        for thread in threads:
            thread.join(60)
        assert process.wait(30) == 0
    assert [thread.status for thread in threads] == [200] * 8
    with closing(Database(state)) as database:
        ((_, budget),) = Keys(database).all()
        recorded = sum(entry.answered for _, entry in Ledger(database).entries())
        stops = sum(entry.event == "stop" for _, entry in Ledger(database).entries())
    assert (budget.used, recorded, stops) == (8, 8, 2)


def test_H6_second_signal_ends_all_workers_at_once(tmp_path: Path) -> None:
    state = tmp_path / "state"
    key = make_key(state)
    slow = make_bundle(tmp_path / "b", factory="sample_networks:Slow", seconds=30.0)
    with served(slow, *OPTIONS, state=state, **UNREACHABLE_STORE) as (url, process):
        StderrReader(process)
        await_workers(state, 2)
        thread = RequestThread(url, key)
        wait_until(lambda: charged(state) == 1)
        ids = worker_ids(process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.8)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        second = time.monotonic()
        process.wait(30)
        assert time.monotonic() - second < 20  # PyTorch unloads in 2 s; the answer takes 30 s
        thread.join(60)
    assert thread.status == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in ids)


def test_H6_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    state = tmp_path / "state"
    make_key(state)
    with served(bundle, *OPTIONS, state=state, **UNREACHABLE_STORE) as (_, process):
        StderrReader(process)
        await_workers(state, 2)
        ids = worker_ids(process)
        process.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ids))
