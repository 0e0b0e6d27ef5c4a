"""The watch of a server: its comparisons, its actions, and the answers that clients then get."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving import make_bundle, make_key, make_settings, png, random_images, running
from stingy_server import Database, Settings
from stingy_server.codec.images import Pixels
from stingy_server.detection.fair_sample import reduce_images
from stingy_server.detection.key_profiles import Action, KeyProfileStore
from stingy_server.detection.monitor import Watch
from stingy_server.errors import ServiceError
from stingy_server.observability.metrics import Metrics
from stingy_server.settings import WatchSettings
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.ledger import Ledger
from watched_images import PICTURES, attack, customer, noisy, noisy_in


@pytest.fixture
def database(tmp_path: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(tmp_path / "state", store=store)) as database:
        yield database


async def query(client: httpx.AsyncClient, key: str, images: Pixels) -> httpx.Response:
    image = {"name": "image", "datatype": "UINT8", "shape": images.shape}
    return await client.post(
        "/v2/models/digits/infer",
        json={"inputs": [{**image, "data": images.ravel().tolist()}]},
        headers={"Authorization": f"Bearer {key}"},
    )


def output_names(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [output["name"] for output in response.json()["outputs"]]


def watch_settings(tmp_path: Path, **watch: Any) -> Settings:
    return make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), watch=WatchSettings(**watch))


@pytest.mark.anyio
async def test_alarm_leaves_only_labels_until_it_is_released(tmp_path: Path) -> None:
    settings = watch_settings(tmp_path, then="labels")
    async with running(settings) as (client, app):
        service = app.state.service
        attacker_key, honest_key = make_key(settings.state), make_key(settings.state)
        assert output_names(await query(client, attacker_key, attack())) == ["indices", "scores"]
        assert output_names(await query(client, honest_key, customer())) == ["indices", "scores"]
        service.watch.run_once(service.database)
        assert output_names(await query(client, attacker_key, customer())) == ["indices"]
        assert output_names(await query(client, honest_key, customer())) == ["indices", "scores"]
        plain = await client.post(
            "/v1/predict/digits",
            content=png(customer()[0]),
            headers={"Authorization": f"Bearer {attacker_key}"},
        )
        (answer,) = plain.json()["answers"]
        assert [set(found) for found in answer["classes"]] == [{"index", "label"}]
        (attacker_id,) = service.watch._actions
        assert KeyProfileStore(service.database).release(attacker_id)
        service.watch.run_once(service.database)
        assert output_names(await query(client, attacker_key, customer())) == ["indices", "scores"]


@pytest.mark.anyio
async def test_alarm_that_refuses_charges_nothing(tmp_path: Path) -> None:
    settings = watch_settings(tmp_path, then="refuse")
    async with running(settings) as (client, app):
        service = app.state.service
        key = make_key(settings.state)
        await query(client, key, attack())
        service.watch.run_once(service.database)
        refused = await query(client, key, customer())
        assert (refused.status_code, refused.headers["X-Error-Code"]) == (403, "suspended")
        assert sorted(budget.used for _, budget in service.keys.all()) == [0, 256]
        events = [entry.event for _, entry in Ledger(service.database).entries()]
        assert events == ["start", "answer", "alarm_refuse", "suspended"]
        sample = service.metrics.registry.get_sample_value
        assert sample("stingy_watch_keys", {"step": "refuse"}) == 1
        assert sample("stingy_watch_scores", {"at_most": "0.9"}) == 0
        assert sample("stingy_watch_scores", {"at_most": "1.0"}) == 1


@pytest.mark.anyio
async def test_alarm_outlasts_a_restart(tmp_path: Path) -> None:
    settings = watch_settings(tmp_path, then="refuse")
    key = ""
    for status in (200, 403):
        async with running(settings) as (client, _):
            key = key or make_key(settings.state)
            assert (await query(client, key, attack())).status_code == status


@pytest.mark.anyio
async def test_default_alarm_is_recorded_and_changes_nothing(tmp_path: Path) -> None:
    settings = watch_settings(tmp_path)
    async with running(settings) as (client, app):
        service = app.state.service
        key = make_key(settings.state)
        await query(client, key, attack())
        service.watch.run_once(service.database)
        assert output_names(await query(client, key, customer())) == ["indices", "scores"]
        assert Action.ALARM in KeyProfileStore(service.database).actions().values()


@pytest.mark.anyio
async def test_key_profile_has_nothing_of_an_image(tmp_path: Path) -> None:
    """Two keys whose images differ but give the same distances and answers have the same row."""
    settings = watch_settings(tmp_path)
    async with running(settings) as (client, app):
        service = app.state.service
        await query(client, make_key(settings.state), customer()[:1])
        service.watch.run_once(service.database)
        (row,) = KeyProfileStore(service.database).all()
        assert (row.images, row.novel, row.distances) == (1, 1, b"")
        assert set(json.loads(row.classes)) == {"digits"}


@pytest.mark.anyio
async def test_failed_watch_refuses_every_request(tmp_path: Path) -> None:
    settings = watch_settings(tmp_path)
    async with running(settings) as (client, app):
        assert (await client.get("/v2/health/ready")).status_code == 200
        app.state.service.watch.failed = True
        assert (await query(client, make_key(settings.state), customer())).status_code == 500
        assert (await client.get("/v2/health/ready")).status_code == 500


def test_watch_retries_a_store_that_is_down_at_its_start(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reopen, opened = Database.reopen, threading.Event()
    failures = [StoreUnavailable("expected a store")]

    def fail_once(database: Database) -> Database:
        if failures:
            raise failures.pop()
        opened.set()
        return reopen(database)

    monkeypatch.setattr(Database, "reopen", fail_once)
    monkeypatch.setattr("stingy_server.detection.monitor.EVERY_S", 0.01)
    watch = Watch(database, settings=WatchSettings(), metrics=Metrics())
    watch.observe("k", "m", random_images(1), _answer(1), 1.0)
    watch.start()
    assert opened.wait(10)
    watch.close()
    assert not watch.failed
    assert [row.images for row in KeyProfileStore(database).all()] == [1]


def test_images_compared_are_bounded_and_all_are_counted(database: Database) -> None:
    watch = Watch(database, settings=WatchSettings(), metrics=Metrics())
    answer = _answer(256)
    for number in range(10):
        watch.observe(f"k{number // 5}", "m", random_images(256, seed=number), answer, 1.0)
    watch.run_once(database)
    rows = KeyProfileStore(database).all()
    assert [row.images for row in rows] == [1280, 1280]
    assert [row.novel for row in rows] == [256, 256]


@pytest.mark.parametrize("flood", [0, 4])
def test_W2_near_duplicates_beside_a_flood_are_found_as_soon(
    database: Database, flood: int
) -> None:
    watch = Watch(database, settings=WatchSettings(then="refuse"), metrics=Metrics())
    images = PICTURES[np.random.default_rng(0).integers(0, 100, 200)]
    for start in range(0, 200, 25):
        for number in range(flood):
            watch.observe("flood", "m", random_images(256, seed=number), _answer(256), 1.0)
        for place in range(start, start + 25):
            image = noisy(images[place : place + 1], seed=place)
            watch.observe("key", "m", image, _answer(1), 1.0)
        watch.run_once(database)
        if watch.action("key") is Action.REFUSE:
            assert start + 25 == 75
            return
    raise AssertionError("the key was not suspended")


@pytest.mark.parametrize("channels", [(0, 2), (1,), (0, 1, 2)], ids=str)
def test_W1_near_duplicates_in_any_channels_suspend_the_key(
    database: Database, channels: tuple[int, ...]
) -> None:
    watch = Watch(database, settings=WatchSettings(then="refuse"), metrics=Metrics())
    for seed in range(10):
        images = noisy_in(PICTURES[:20], channels, seed=seed)
        watch.observe("key", "m", images, _answer(20), 1.0)
    watch.run_once(database)
    assert watch.action("key") is Action.REFUSE


@pytest.mark.anyio
async def test_W3_images_not_looked_at_are_capped_for_each_key(tmp_path: Path) -> None:
    settings = watch_settings(tmp_path, max_unwatched=100)
    async with running(settings) as (client, app):
        service = app.state.service
        key, other = make_key(settings.state), make_key(settings.state)
        assert (await query(client, key, random_images(60))).status_code == 200
        refused = await query(client, key, random_images(41))
        assert (refused.status_code, refused.headers["X-Error-Code"]) == (429, "rate_limited")
        assert refused.headers["retry-after"] == "1"
        assert (await query(client, other, random_images(100))).status_code == 200
        assert (await query(client, key, random_images(40))).status_code == 200
        assert (await query(client, key, random_images(1))).status_code == 429
        service.watch.run_once(service.database)
        assert (await query(client, key, random_images(100))).status_code == 200
        assert (await query(client, key, random_images(101))).status_code == 413
        used = {budget.used for _, budget in service.keys.all()}
        assert used == {0, 100, 200}


@pytest.mark.anyio
async def test_W3_refused_and_failed_requests_free_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = watch_settings(tmp_path, max_unwatched=100)
    async with running(settings) as (client, app):
        service = app.state.service
        poor, key = make_key(settings.state, budget=50), make_key(settings.state)
        for _ in range(3):
            assert (await query(client, poor, random_images(60))).status_code == 429
        assert (await query(client, poor, random_images(50))).status_code == 200

        async def fail(_: Any) -> None:
            raise RuntimeError("the model has failed")

        (endpoint,) = service.fleet
        with monkeypatch.context() as patched:
            patched.setattr(endpoint.engine, "predict", fail)
            for _ in range(3):
                assert (await query(client, key, random_images(60))).status_code == 500
        assert (await query(client, key, random_images(100))).status_code == 200


def test_W3_images_pass_the_cap_after_a_run_that_fails(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(database, settings=WatchSettings(max_unwatched=10), metrics=Metrics())
    watch.reserve("key", 10)
    watch.observe("key", "m", random_images(10), _answer(10), 1.0)
    with pytest.raises(ServiceError):
        watch.reserve("key", 1)

    def fail(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("expected a store")

    monkeypatch.setattr(KeyProfileStore, "add", fail)
    with pytest.raises(StoreUnavailable):
        watch.run_once(database)
    watch.reserve("key", 10)


def test_many_waiting_pixels_are_reduced_before_the_next_run(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stingy_server.detection.fair_sample.WAKE_BYTES", 1)
    monkeypatch.setattr("stingy_server.detection.monitor.EVERY_S", 60.0)
    reduced = threading.Event()

    def reduce_and_report(*arguments: Any) -> None:
        reduce_images(*arguments)
        reduced.set()

    monkeypatch.setattr("stingy_server.detection.monitor.reduce_images", reduce_and_report)
    watch = Watch(database, settings=WatchSettings(), metrics=Metrics())
    watch.start()
    watch.observe("key", "m", random_images(5), _answer(5), 1.0)
    assert reduced.wait(10)
    assert watch._sample.waiting() == []
    watch.close()
    assert not watch.failed
    assert [row.novel for row in KeyProfileStore(database).all()] == [5]


def test_watch_forgets_the_keys_that_were_idle_for_longest(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stingy_server.detection.monitor.KEYS", 2)
    watch = Watch(database, settings=WatchSettings(), metrics=Metrics())
    for key in ("a", "b", "a", "c"):
        watch.observe(key, "m", random_images(1), _answer(1), 1.0)
        watch.run_once(database)
    assert list(watch._indexes) == ["a", "c"]
    assert len(KeyProfileStore(database).all()) == 3


def _answer(count: int) -> Any:
    import torch

    from stingy_protection import build_policy, sanitize

    return sanitize(build_policy("stingy", num_classes=10), torch.randn(count, 10))
