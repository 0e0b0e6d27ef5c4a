"""The end of a server by a signal or a crash: requests in flight, files left, changes ignored."""

import json
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from leaking import disguises
from sample_networks import THINKING, canaries
from serving import charged, make_bundle, make_key, png, random_images, served
from stingy_clients import Client
from stingy_server import Database, Keys
from stingy_server.store.ledger import Ledger

IMAGE = png(random_images(1)[0])
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  the tests read it and write nothing


def slow_bundle(folder: Path, *, seconds: float) -> Path:
    return make_bundle(folder, factory="sample_networks:Slow", policy="stingy:n=2", seconds=seconds)


class RequestThread(threading.Thread):
    """A thread that sends one request."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(daemon=True)
        self._request = httpx.Request(
            "POST",
            f"{url}/v1/predict/digits",
            content=IMAGE,
            headers={"Authorization": f"Bearer {key}"},
        )
        self.status = 0
        self.start()

    def run(self) -> None:
        try:
            with httpx.Client(timeout=60) as client:
                self.status = client.send(self._request).status_code
        except httpx.TransportError:
            return


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition stayed false for 60 s"
        time.sleep(0.02)


def await_inference(process: "subprocess.Popen[str]") -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if THINKING in line:
            return
    raise AssertionError("the server ended before its network ran")


@pytest.fixture
def dumps_allowed() -> Iterator[None]:
    """Allow core dumps in this process, so that only the server itself can forbid its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.mark.usefixtures("dumps_allowed")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_L12_crash_during_inference_leaves_no_number_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(work)  # Linux writes a core dump to the working folder
    bundle = slow_bundle(tmp_path / "bundle", seconds=4.0)
    state = tmp_path / "state"
    key = make_key(state)
    shared = set(SHARED_MEMORY.glob("*"))
    with served(bundle, state=state, TMPDIR=str(temporary)) as (url, process):
        thread = RequestThread(url, key)
        await_inference(process)
        process.send_signal(number)
        assert process.wait(60) == -number
        thread.join(60)
    assert thread.status == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert state / "stingy.sqlite3" in files
    files += set(SHARED_MEMORY.glob("*")) - shared
    for path in files:
        content = path.read_bytes()
        for value in canaries(10).tolist():
            assert not any(form in content for form in disguises(value)), path


def test_Q4_client_that_leaves_is_charged(tmp_path: Path) -> None:
    bundle = slow_bundle(tmp_path / "bundle", seconds=0.5)
    state = tmp_path / "state"
    key = make_key(state)
    with served(bundle, state=state) as (url, process):
        address = httpx.URL(url)
        request = (
            f"POST /v1/predict/digits HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Length: {len(IMAGE)}\r\n\r\n"
        )
        with socket.create_connection((address.host, address.port or 0)) as connection:
            connection.sendall(request.encode() + IMAGE)
            await_inference(process)
        process.terminate()
        assert process.wait(30) == 0
    with closing(Database(state)) as database:
        ((_, budget),) = Keys(database).all()
        recorded = [entry.event for _, entry in Ledger(database).entries()]
    assert budget.used == 1
    assert recorded == ["start", "answer", "stop"]


def test_H6_drain_answers_in_flight_and_takes_nothing_new(tmp_path: Path) -> None:
    bundle = slow_bundle(tmp_path / "bundle", seconds=2.0)
    state = tmp_path / "state"
    key = make_key(state)
    with served(bundle, state=state) as (url, process):
        threads = [RequestThread(url, key) for _ in range(8)]
        await_inference(process)
        # All requests have arrived, and the first one still occupies the model.
        wait_until(lambda: charged(state) == 8)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not ready(url))
        late_thread = RequestThread(url, key)
        assert process.wait(30) == 0
        for thread in (*threads, late_thread):
            thread.join(60)
    assert [thread.status for thread in threads] == [200] * 8
    assert late_thread.status in (0, 503)
    with closing(Database(state)) as database:
        ((_, budget),) = Keys(database).all()
        recorded = sum(entry.answered for _, entry in Ledger(database).entries())
    assert budget.used == recorded == 8


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_H6_second_signal_ends_the_server_at_once(tmp_path: Path) -> None:
    bundle = slow_bundle(tmp_path / "bundle", seconds=30.0)
    state = tmp_path / "state"
    key = make_key(state)
    with served(bundle, state=state) as (url, process):
        thread = RequestThread(url, key)
        await_inference(process)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert time.monotonic() - started < 20
        thread.join(60)
    assert thread.status in (0, 503)


def test_H6_request_received_in_part_at_the_signal_is_answered(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    key = make_key(state)
    with served(make_bundle(tmp_path / "bundle"), state=state) as (url, process):
        body = IMAGE

        def body_in_parts() -> Iterator[bytes]:
            yield body[:9]
            time.sleep(2.0)  # until the server has admitted the request
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: not ready(url))
            yield body[9:]

        headers = {"Authorization": f"Bearer {key}", "Content-Length": str(len(body))}
        response = httpx.post(f"{url}/v1/predict/digits", content=body_in_parts(), headers=headers)
        assert response.status_code == 200
        assert process.wait(30) == 0


def test_P8_changed_settings_and_bundle_need_a_new_start(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    state, file = tmp_path / "state", tmp_path / "stingy.toml"
    key = make_key(state)

    def configure(policy: str) -> None:
        file.write_text(f'[[models]]\nbundle = "bundle"\npolicy = "{policy}"\n')

    def fingerprint(url: str) -> str:
        with Client(url, key) as client:
            assert client.predict(IMAGE, model="digits")
            return client.model("digits").fingerprint

    configure("stingy:n=2")
    with served("--config", file, state=state) as (url, process):
        before = fingerprint(url)
        configure("stingy:n=5")
        manifest = json.loads((bundle / "model.json").read_text())
        (bundle / "model.json").write_text(json.dumps(manifest | {"policy": "open"}))
        assert fingerprint(url) == before
        process.send_signal(signal.SIGHUP)  # drains and does not reload
        assert process.wait(30) == 0
    with served("--config", file, state=state) as (url, _):
        after = fingerprint(url)
    with closing(Database(state)) as database:
        recorded = [e.fingerprint for _, e in Ledger(database).entries() if e.event == "answer"]
    assert recorded == [before, before, after]
    assert before != after


def test_Q4_O1_request_cut_off_by_a_drain_is_refunded_in_ledger(tmp_path: Path) -> None:
    bundle = slow_bundle(tmp_path / "bundle", seconds=4.0)
    state = tmp_path / "state"
    key = make_key(state)
    with served(bundle, state=state, STINGY_DRAIN_S="1") as (url, process):
        threads = [RequestThread(url, key) for _ in range(3)]
        await_inference(process)
        wait_until(lambda: charged(state) == 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        for thread in threads:
            thread.join(60)
        assert process.stderr is not None
        logged = process.stderr.read()
    assert [thread.status for thread in threads] == [503] * 3
    assert "Traceback" not in logged
    with closing(Database(state)) as database:
        ((_, budget),) = Keys(database).all()
        recorded = [(e.event, e.answered, e.requests) for _, e in Ledger(database).entries()]
    assert budget.used == 0
    assert recorded == [("start", 0, 1), ("draining", 0, 1), ("draining", 0, 2), ("stop", 0, 1)]
