"""Several workers of a server share one budget, one rate and their counters."""

import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from redis_server import RunningRedis
from serving import (
    STINGY,
    free_port,
    make_bundle,
    make_key,
    png,
    random_images,
    served,
    server_environment,
)
from stingy_clients import BudgetExhausted, Client, ClientError
from stingy_server import Database, Keys
from stingy_server.store.ledger import Ledger

IMAGE = png(random_images(1)[0])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "digits", policy="stingy:n=2")


@pytest.fixture
def redis(own_redis: RunningRedis) -> str:
    """Return the address of a Redis server for one test."""
    return own_redis.address


def test_workers_share_one_budget_one_rate_and_their_counters(
    tmp_path: Path, bundle: Path, redis: str
) -> None:
    state, metrics_port = tmp_path / "state", free_port()
    budgeted = make_key(state, budget=150)
    rated = make_key(state, rate="60/hour")
    options = ("--workers", "2", "--metrics-port", str(metrics_port))
    with served(bundle, *options, state=state, STINGY_RATE_STORE=redis) as (url, process):
        _wait_ready(url)

        def count_answered(key: str) -> int:
            answered = 0
            with Client(url, key, retries=0) as client:
                for _ in range(100):
                    try:
                        client.predict(IMAGE, model="digits")
                        answered += 1
                    except ClientError as error:
                        assert getattr(error, "status", 0) == 429  # noqa: PT017
            return answered

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(count_answered, [budgeted] * 4)) == 150
            assert sum(pool.map(count_answered, [rated] * 4)) == 60
        page = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
        counted = {
            sample.name: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.labels == {"model": "digits"}
        }
        process.send_signal(signal.SIGHUP)  # it drains as SIGTERM does and starts no worker
        assert process.wait(30) == 0
    with closing(Database(state)) as database:
        recorded = sum(entry.answered for _, entry in Ledger(database).entries())
        used = sum(budget.used for _, budget in Keys(database).all())
    assert counted["stingy_images_answered_total"] == recorded == used == 210  # Q8


def test_P6_refused_start_leaves_the_running_servers_metrics(
    tmp_path: Path, bundle: Path, redis: str
) -> None:
    state, metrics_port = tmp_path / "state", free_port()
    key = make_key(state)
    options = ("--workers", "2", "--metrics-port", str(metrics_port))
    with served(bundle, *options, state=state, STINGY_RATE_STORE=redis) as (url, _):
        _wait_ready(url)
        with Client(url, key) as client:
            for _ in range(20):
                client.predict(IMAGE, model="digits")
        port = url.rpartition(":")[2]
        command: list[str | Path] = [
            *STINGY,
            "serve",
            bundle,
            "--workers",
            "2",
            "--state",
            state,
            "--port",
            port,
        ]
        refused = subprocess.run(
            command,
            env={**server_environment(), "STINGY_RATE_STORE": redis},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (refused.returncode, "cannot listen here" in refused.stderr) == (2, True)
        page = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
        assert 'stingy_images_answered_total{model="digits"} 20.0' in page
        assert len([*(state / "metrics").glob("start-*")]) == 1
    assert [*(state / "metrics").glob("start-*")] == []


def _wait_ready(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the workers did not start")


def test_workers_without_a_shared_rate_store_are_refused(tmp_path: Path, bundle: Path) -> None:
    completed = subprocess.run(
        [*STINGY, "serve", bundle, "--workers", "2", "--state", tmp_path / "state", "--port", "0"],
        env=server_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert completed.returncode == 2
    assert "rate_store" in completed.stderr


def test_H7_killed_worker_is_replaced_and_charges_stay_exact(
    tmp_path: Path, bundle: Path, redis: str
) -> None:
    state = tmp_path / "state"
    key = make_key(state, budget=400)
    with served(bundle, "--workers", "2", state=state, STINGY_RATE_STORE=redis) as (url, process):
        _wait_ready(url)
        answered = 0
        with Client(url, key, retries=0) as client:
            for number in range(3000):
                if number == 50:
                    subprocess.run(["pkill", "-KILL", "-P", str(process.pid), "-o"], check=False)
                try:
                    client.predict(IMAGE, model="digits")
                    answered += 1
                except BudgetExhausted:
                    break
                except ClientError:
                    time.sleep(0.01)
    with closing(Database(state)) as database:
        ((_, budget),) = Keys(database).all()
    assert budget.used == 400
    assert 398 <= answered <= 400  # requests in flight at the kill are charged, not answered
