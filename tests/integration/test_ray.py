"""A real Ray Serve with two edge and two model replicas over one state folder."""

import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from ray_servers import RayServe, needs_ray, on_ray
from serving import make_bundle, make_key, png, random_images
from stingy_clients import ApiError, Client, ClientError, Unavailable
from stingy_server import Database, Keys
from stingy_server.store.database import FILE

pytestmark = [pytest.mark.integration, needs_ray()]
IMAGES = random_images(64)
DEADLINE_S = 5
SETTINGS = f"""
state = "state"
trusted_factories = ["sample_networks"]
rate_store = "redis://127.0.0.1:1"  # no server listens there
batch_size = 4
deadline_s = {DEADLINE_S}
[ray]
max_queued = 4
edge = {{ min_replicas = 2, num_cpus = 0.1 }}
model = {{ min_replicas = 2, num_cpus = 0.1 }}
[[models]]
bundle = "digits"
[[models]]
bundle = "slow"
replicas = {{ num_cpus = 0.1 }}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    make_bundle(
        folder / "digits",
        factory="sample_networks:convolutional",
        policy="stingy:n=3",
        gain=3.0,
    )
    make_bundle(folder / "slow", name="slow", factory="sample_networks:Slow", seconds=0.5)
    (folder / "stingy.toml").write_text(SETTINGS, "utf-8")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RayServe]:
    with on_ray(folder) as server:
        yield server


def key(folder: Path, **options: object) -> str:
    return make_key(folder / "state", **options)  # type: ignore[arg-type]


def charged(url: str, key: str) -> int:
    with Client(url, key) as client:
        return client.usage().used


def query(url: str, key: str, *, tries: int) -> Counter[str]:
    """Send requests of one image in turn, without retries, and count the outcomes."""
    outcomes: Counter[str] = Counter()
    with Client(url, key, retries=0) as client:
        for number in range(tries):
            try:
                client.predict(IMAGES[number % len(IMAGES)], model="digits")
                outcomes["answered"] += 1
            except ApiError as error:
                outcomes[error.code] += 1
            except ClientError:  # HAProxy answered, or no server did
                outcomes["no answer"] += 1
    return outcomes


def query_and_kill(
    server: RayServe, key: str, *, deployment: str
) -> tuple[Counter[str], Counter[str]]:
    """Kill a replica during requests on eight connections.

    Returns:
        The outcomes of those requests, and of requests afterwards.
    """
    with ThreadPoolExecutor(8) as threads:
        queries = [threads.submit(query, server.url, key, tries=50) for _ in range(8)]
        time.sleep(0.5)
        assert len(server.replicas(deployment)) == 2
        server.kill(deployment)
        during = sum((one.result() for one in queries), Counter())
    return during, query(server.url, key, tries=50)


def test_replicas_are_those_of_the_settings(server: RayServe) -> None:
    assert [len(server.replicas(name)) for name in ("edge", "digits@1", "slow@1")] == [2, 2, 1]


def test_U3_killed_model_replica_loses_no_answer_or_charge(server: RayServe, folder: Path) -> None:
    text = key(folder, budget=440)
    during, after = query_and_kill(server, text, deployment="digits@1")
    # One replica has a queue for four. A request refused by a full queue has lost nothing.
    lost = during.total() - during["answered"] - during["overloaded"]
    assert lost <= 8, during  # at most what was in flight
    assert during["answered"] >= 350, during
    assert after["answered"] + after["budget_exhausted"] == 50, after
    answered = during["answered"] + after["answered"]
    assert answered == min(440, during["answered"] + 50) == charged(server.url, text)


def test_U3_killed_edge_replica_gives_no_uncharged_answer(server: RayServe, folder: Path) -> None:
    text = key(folder)
    during, after = query_and_kill(server, text, deployment="edge")
    assert after["answered"] == 50, after
    answered = during["answered"] + after["answered"]
    assert answered <= charged(server.url, text) <= 450
    assert answered >= 200


def test_full_queue_is_503_and_refused_images_are_not_charged(
    server: RayServe, folder: Path
) -> None:
    text = key(folder)

    def outcome(_: int) -> str:
        with Client(server.url, text, retries=0) as client:
            try:
                client.predict(IMAGES[0], model="slow")
            except Unavailable as error:
                return f"{error.code}, try again later: {error.retry_after is not None}"
        return "answered"

    with ThreadPoolExecutor(40) as threads:
        outcomes = Counter(threads.map(outcome, range(40)))
    assert set(outcomes) == {"answered", "overloaded, try again later: True"}, outcomes
    assert outcomes["answered"] == charged(server.url, text)


def test_hanging_replica_is_504_in_time_and_not_charged(server: RayServe, folder: Path) -> None:
    text = key(folder)
    (hanging,) = server.replicas("slow@1")
    os.kill(hanging, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with Client(server.url, text, retries=0) as client, pytest.raises(ApiError) as error:
            client.predict(IMAGES[0], model="slow")
        assert (error.value.status, error.value.code) == (504, "deadline")
        assert DEADLINE_S <= time.monotonic() - started < DEADLINE_S + 3
        headers = {"Authorization": f"Bearer {text}"}
        ready = f"{server.url}/v2/models/slow/ready"
        assert httpx.get(ready, headers=headers).status_code == 502
    finally:
        os.kill(hanging, signal.SIGCONT)
    assert charged(server.url, text) == 0
    with Client(server.url, text) as client:
        client.predict(IMAGES[0], model="slow")
    time.sleep(1.5)  # a probe is kept for a second
    assert httpx.get(ready, headers=headers).status_code == 200


def test_Q_locked_state_refuses_until_it_is_unlocked(server: RayServe, folder: Path) -> None:
    text = key(folder)
    with closing(sqlite3.connect(folder / "state" / FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        outcomes = query(server.url, text, tries=1)
    assert outcomes == {"store_unavailable": 1}
    assert query(server.url, text, tries=4) == {"answered": 4}


def test_Q_key_with_a_rate_is_refused_without_the_rate_store(
    server: RayServe, folder: Path
) -> None:
    assert query(server.url, key(folder, rate="600/minute"), tries=2) == {"store_unavailable": 2}


def test_A_without_a_key_only_rays_route_is_answered(server: RayServe) -> None:
    for method, path in [("POST", "/v1/predict/digits"), ("GET", "/v1/usage"), ("GET", "/docs")]:
        response = httpx.request(method, server.url + path, content=png(IMAGES[0]))
        assert (response.status_code, response.headers["X-Error-Code"]) == (401, "unauthenticated")
    assert httpx.get(f"{server.url}/-/routes").json() == {"/": "default"}


def test_answers_during_an_upgrade_obey_either_policy(server: RayServe, folder: Path) -> None:
    """Run as the last test, because another policy is served afterwards."""
    text = key(folder)
    settings = SETTINGS.replace('bundle = "digits"', 'bundle = "digits"\npolicy = "stingy:n=2"')
    (folder / "stingy.toml").write_text(settings, "utf-8")
    outcomes: Counter[str] = Counter()
    server.deploy()
    until = time.monotonic() + 60
    in_a_row = 0
    with Client(server.url, text, retries=0) as client:
        while in_a_row < 50 and time.monotonic() < until:
            try:
                outcome = str(len(client.predict(IMAGES[0], model="digits").classes))
            except ApiError as error:
                outcome = error.code
            except ClientError:  # HAProxy answered, or no server did
                outcome = "no answer"
            outcomes[outcome] += 1
            in_a_row = in_a_row + 1 if outcome == "2" else 0
    assert in_a_row == 50, outcomes
    assert set(outcomes) <= {"3", "2", "overloaded"}, outcomes
    assert outcomes["2"] + outcomes["3"] == charged(server.url, text)
    with closing(Database(folder / "state")) as database:
        assert text.split("_")[1] in {found.id for found, _ in Keys(database).all()}
