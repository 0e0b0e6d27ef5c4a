"""The watch: what looks alike is found, evidence becomes a score, an alarm becomes a step."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from serving import make_bundle, make_key, make_settings, png, random_images, running
from stingy_server import Database, Settings
from stingy_server.cli.main import app as cli
from stingy_server.codec.images import Pixels
from stingy_server.detection.image_hashes import (
    REMEMBERED,
    BatchStats,
    HashIndex,
    ImageHasher,
    sampled,
)
from stingy_server.detection.key_profiles import (
    PATIENCE,
    Action,
    KeyProfile,
    KeyProfileStore,
    Observation,
    coverage,
    escalate,
    lower_bound,
    merged,
    normality,
    score,
)
from stingy_server.detection.monitor import Watch
from stingy_server.observability.metrics import Metrics
from stingy_server.settings import WatchSettings
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.ledger import Ledger

HASHER = ImageHasher(b"secret")
# Smooth pictures, as photographs are: noise has nothing that stays when it moves.
PICTURES = np.kron(random_images(400, size=8, seed=1), np.ones((1, 4, 4, 1), np.uint8))


def compare(index: HashIndex, images: Pixels, label: int = 0) -> BatchStats:
    grids = sampled(images)
    return index.compare(grids, HASHER.codes(grids), np.full(len(images), label, np.int32))


def moved(images: Pixels, pixels: int) -> Pixels:
    return np.roll(images, pixels, axis=2)


def noisy(images: Pixels) -> Pixels:
    noise = np.random.default_rng(2).integers(-4, 5, images.shape)
    return np.clip(images.astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (noisy, 0.95),
        (lambda images: images[:, :, ::-1], 0.95),
        (lambda images: moved(images, 4), 0.95),
        (lambda images: images // 2 + 40, 0.95),
    ],
    ids=["noise", "mirrored", "moved", "paler"],
)
def test_a_changed_image_is_a_near_duplicate(change: Any, found: float) -> None:
    index = HashIndex()
    assert compare(index, PICTURES[:100]).near == 0
    second = compare(index, np.ascontiguousarray(change(PICTURES[:100])))
    assert second.novel == 100
    assert second.near >= found * 100


def test_near_duplicates_are_found_within_one_batch_too() -> None:
    both = np.concatenate([PICTURES[:10], noisy(PICTURES[:10])])
    assert compare(HashIndex(), both).near == 10


def test_other_images_are_no_near_duplicates_and_repeats_are_counted_apart() -> None:
    index = HashIndex()
    assert compare(index, PICTURES) == BatchStats(
        400, 0, 0, compare(HashIndex(), PICTURES).distances
    )
    second = compare(index, PICTURES)
    assert (second.novel, second.near, second.repeats) == (0, 0, 400)
    twice = np.concatenate([PICTURES[:1], PICTURES[:1]])
    assert compare(HashIndex(), twice).repeats == 1


def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    index = HashIndex()
    compare(index, PICTURES[:1])
    many = random_images(REMEMBERED + 100, seed=5)
    for start in range(0, len(many), 512):
        compare(index, many[start : start + 512])
    assert compare(index, noisy(PICTURES[:1])).near == 0
    arrays = [part for part in vars(index).values() if isinstance(part, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 240 * 2**10


def test_codes_hold_under_one_secret_only() -> None:
    grids = sampled(PICTURES[:1])
    assert np.array_equal(ImageHasher(b"secret").codes(grids), HASHER.codes(grids))
    assert not np.array_equal(ImageHasher(b"other").codes(grids), HASHER.codes(grids))


@given(st.integers(1, 70), st.integers(1, 300))
@settings(deadline=None, max_examples=20)
def test_images_of_any_size_have_codes(height: int, width: int) -> None:
    grids = sampled(np.full((2, height, width, 3), 7, np.uint8))
    assert max(grids.shape) <= 63
    assert HASHER.codes(grids).shape == (2, 18, 2)


def test_distances_are_those_within_a_class() -> None:
    index = HashIndex()
    compare(index, PICTURES[:1], label=1)
    assert compare(index, PICTURES[1:2], label=2).distances == b""
    assert len(compare(index, PICTURES[2:3], label=1).distances) == 1


def test_coverage_is_one_over_all_classes_alike_and_zero_over_one() -> None:
    assert coverage({"m": (4, {"0": 5, "1": 5, "2": 5, "3": 5})}) == pytest.approx(1)
    assert coverage({"m": (4, {"0": 9})}) == 0
    assert coverage({"m": (4, {"0": 9}), "n": (2, {"0": 8, "1": 8})}) == pytest.approx(1)


def test_normality_tells_a_bell_from_two_heaps() -> None:
    random = np.random.default_rng(0)
    bell = random.normal(40, 8, 200).astype(np.uint8).tobytes()
    heaps = np.concatenate([np.full(100, 2), np.full(100, 40)]).astype(np.uint8).tobytes()
    assert normality(bell[:99]) is None
    assert (normality(bell) or 0) > 0.97
    assert (normality(heaps) or 1) < 0.75


@given(
    novel=st.floats(0, 1e6),
    share=st.floats(0, 1),
    shape=st.one_of(st.none(), st.floats(0, 1)),
    wide=st.floats(0, 1),
    budget_used_today=st.floats(0, 1),
)
@settings(deadline=None)
def test_without_near_duplicates_no_evidence_reaches_the_default_alarm(
    novel: float, share: float, shape: float | None, wide: float, budget_used_today: float
) -> None:
    row = KeyProfile(
        "k", novel=novel, normality=shape, coverage=wide, budget_used_today=budget_used_today
    )
    assert 0 <= score(row) < WatchSettings().alarm
    with_some = KeyProfile(
        "k",
        novel=novel,
        near=novel * share,
        normality=shape,
        coverage=wide,
        budget_used_today=budget_used_today,
    )
    assert score(row) <= score(with_some) <= 1


def test_few_images_prove_nothing() -> None:
    assert lower_bound(1, 1) < 0.21
    assert score(KeyProfile("k", novel=40, near=40)) == 0
    assert score(KeyProfile("k", novel=60, near=2)) < 0.5
    assert score(KeyProfile("k", novel=300, near=100)) == 1


@given(st.lists(st.integers(0, 200), min_size=1, max_size=6))
@settings(deadline=None)
def test_what_was_answered_is_counted_exactly_whoever_tells_it(parts: list[int]) -> None:
    row = KeyProfile("k")
    for part in parts:
        observation = Observation(images=part, bits=part / 2, novel=part, near=part // 3)
        row = merged(row, observation, budget_used_today=0)
    assert row.images == sum(parts)
    assert row.bits == pytest.approx(sum(parts) / 2)
    assert row.novel <= sum(parts) + 1e-9
    assert row.near <= row.novel + 1e-9


LADDER = (Action.LABELS, Action.REFUSE)


def next_action(
    action: Action,
    ladder: tuple[Action, ...],
    *,
    score: float = 1.0,
    images: int = 0,
    since: int = 0,
) -> Action:
    row = KeyProfile("k", score=score, action=action, images=images, since=since)
    return Action(escalate(row, alarm=0.9, ladder=ladder).action)


def test_a_ladder_is_climbed_a_step_at_a_time() -> None:
    assert next_action(Action.NONE, LADDER, score=0.89) is Action.NONE
    assert next_action(Action.NONE, LADDER) is Action.LABELS
    assert next_action(Action.LABELS, LADDER, images=PATIENCE - 1) is Action.LABELS
    assert next_action(Action.LABELS, LADDER, images=PATIENCE) is Action.REFUSE
    assert next_action(Action.REFUSE, LADDER, images=10 * PATIENCE) is Action.REFUSE
    assert next_action(Action.NONE, ()) is Action.ALARM
    assert next_action(Action.ALARM, (), images=10 * PATIENCE) is Action.ALARM
    assert next_action(Action.ALARM, LADDER) is Action.LABELS


@given(
    st.sampled_from(Action),
    st.lists(st.sampled_from([Action.LABELS, Action.REFUSE]), max_size=3),
    st.integers(0, 1000),
)
def test_no_alarm_ever_loosens(action: Action, ladder: list[Action], images: int) -> None:
    order = list(Action)
    assert order.index(next_action(action, tuple(ladder), images=images)) >= order.index(action)


@pytest.fixture
def database(tmp_path: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(tmp_path / "state", store=store)) as database:
        yield database


CLEAR = Observation(images=300, novel=300, near=200)


def test_two_processes_alarm_once_and_the_ledger_has_it(database: Database) -> None:
    with closing(database.reopen()) as other:
        for each in (database, other, database):
            KeyProfileStore(each).add("k", CLEAR, alarm=0.9, ladder=[Action.LABELS])
    assert KeyProfileStore(database).get("k").images == 900
    assert KeyProfileStore(database).actions() == {"k": Action.LABELS}
    assert [(e.key, e.event) for _, e in Ledger(database).entries()] == [("k", "alarm_labels")]


def test_release_begins_anew_and_is_in_the_ledger(database: Database) -> None:
    profiles = KeyProfileStore(database)
    profiles.add("k", CLEAR, alarm=0.9, ladder=[])
    assert profiles.release("k")
    assert not profiles.release("k")
    row = profiles.get("k")
    assert (row.action, row.score, row.near, row.images) == ("none", 0, 0, 300)
    events = [entry.event for _, entry in Ledger(database).entries()]
    assert events == ["alarm", "released"]


def attack() -> Pixels:
    """What an attacker asks: each image and a noisy twin of it."""
    images = random_images(128, seed=3)
    return np.concatenate([images, noisy(images)])


def customer() -> Pixels:
    return random_images(256, seed=4)


async def query(client: httpx.AsyncClient, key: str, images: Pixels) -> httpx.Response:
    image = {"name": "image", "datatype": "UINT8", "shape": images.shape}
    return await client.post(
        "/v2/models/digits/infer",
        json={"inputs": [{**image, "data": images.ravel().tolist()}]},
        headers={"Authorization": f"Bearer {key}"},
    )


def names(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [output["name"] for output in response.json()["outputs"]]


def configured(tmp_path: Path, **watch: Any) -> Settings:
    return make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), watch=WatchSettings(**watch))


@pytest.mark.anyio
async def test_an_alarm_leaves_labels_alone_until_it_is_released(tmp_path: Path) -> None:
    chosen = configured(tmp_path, then="labels")
    async with running(chosen) as (client, app):
        service = app.state.service
        thief, buyer = make_key(chosen.state), make_key(chosen.state)
        assert names(await query(client, thief, attack())) == ["indices", "scores"]
        assert names(await query(client, buyer, customer())) == ["indices", "scores"]
        service.watch.run_once(service.database)
        assert names(await query(client, thief, customer())) == ["indices"]
        assert names(await query(client, buyer, customer())) == ["indices", "scores"]
        plain = await client.post(
            "/v1/predict/digits",
            content=png(customer()[0]),
            headers={"Authorization": f"Bearer {thief}"},
        )
        (answer,) = plain.json()["answers"]
        assert [set(found) for found in answer["classes"]] == [{"index", "label"}]
        (thief_id,) = service.watch._actions
        assert KeyProfileStore(service.database).release(thief_id)
        service.watch.run_once(service.database)
        assert names(await query(client, thief, customer())) == ["indices", "scores"]


@pytest.mark.anyio
async def test_an_alarm_may_refuse_and_charges_nothing_then(tmp_path: Path) -> None:
    chosen = configured(tmp_path, then="refuse")
    async with running(chosen) as (client, app):
        service = app.state.service
        key = make_key(chosen.state)
        await query(client, key, attack())
        service.watch.run_once(service.database)
        refused = await query(client, key, customer())
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "suspended")
        assert sorted(budget.used for _, budget in service.keys.all()) == [0, 256]
        events = [entry.event for _, entry in Ledger(service.database).entries()]
        assert events == ["start", "answer", "alarm_refuse", "suspended"]
        sample = service.metrics.registry.get_sample_value
        assert sample("stingy_watch_keys", {"step": "refuse"}) == 1
        assert sample("stingy_watch_scores", {"at_most": "0.9"}) == 0
        assert sample("stingy_watch_scores", {"at_most": "1.0"}) == 1


@pytest.mark.anyio
async def test_an_alarm_holds_over_a_restart(tmp_path: Path) -> None:
    chosen = configured(tmp_path, then="refuse")
    key = ""
    for status in (200, 403):
        async with running(chosen) as (client, _):
            key = key or make_key(chosen.state)
            assert (await query(client, key, attack())).status_code == status
        # the last look is on the way out


@pytest.mark.anyio
async def test_by_default_an_alarm_tells_and_changes_nothing(tmp_path: Path) -> None:
    chosen = configured(tmp_path)
    async with running(chosen) as (client, app):
        service = app.state.service
        key = make_key(chosen.state)
        await query(client, key, attack())
        service.watch.run_once(service.database)
        assert names(await query(client, key, customer())) == ["indices", "scores"]
        assert Action.ALARM in KeyProfileStore(service.database).actions().values()


@pytest.mark.anyio
async def test_nothing_of_an_image_is_in_the_row(tmp_path: Path) -> None:
    """Two keys that ask other images with the same distances and answers have the same row."""
    chosen = configured(tmp_path)
    async with running(chosen) as (client, app):
        service = app.state.service
        await query(client, make_key(chosen.state), customer()[:1])
        service.watch.run_once(service.database)
        (row,) = KeyProfileStore(service.database).all()
        assert (row.images, row.novel, row.distances) == (1, 1, b"")
        assert set(json.loads(row.classes)) == {"digits"}


@pytest.mark.anyio
async def test_a_watch_that_failed_lets_nobody_pass(tmp_path: Path) -> None:
    chosen = configured(tmp_path)
    async with running(chosen) as (client, app):
        assert (await client.get("/v2/health/ready")).status_code == 200
        app.state.service.watch.failed = True
        assert (await query(client, make_key(chosen.state), customer())).status_code == 500
        assert (await client.get("/v2/health/ready")).status_code == 500


def test_a_watch_that_finds_the_store_gone_at_its_start_tries_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reopen, opened = Database.reopen, threading.Event()
    failures = [StoreUnavailable("expected a store")]

    def late(database: Database) -> Database:
        if failures:
            raise failures.pop()
        opened.set()
        return reopen(database)

    monkeypatch.setattr(Database, "reopen", late)
    monkeypatch.setattr("stingy_server.detection.monitor.EVERY_S", 0.01)
    watch = Watch(database, settings=WatchSettings(), metrics=Metrics())
    watch.observe("k", "m", random_images(1), _answer(1), 1.0)
    watch.start()
    assert opened.wait(10)
    watch.close()
    assert not watch.failed
    assert [row.images for row in KeyProfileStore(database).all()] == [1]


def test_what_waits_to_be_looked_at_is_bounded(database: Database, tmp_path: Path) -> None:
    watch = Watch(database, settings=WatchSettings(), metrics=Metrics())
    answer = _answer(256)
    for number in range(10):
        watch.observe(f"k{number % 2}", "m", random_images(256, seed=number), answer, 1.0)
    queued = sum(len(part[2]) for pending in watch._pending.values() for part in pending.samples)
    assert queued == WatchSettings().images_per_s
    watch.run_once(database)
    assert [row.images for row in KeyProfileStore(database).all()] == [1280, 1280]


def test_the_keys_unheard_of_for_longest_are_forgotten(
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


def test_stingy_watch_and_keys_release(
    database: Database, store: str | None, tmp_path: Path
) -> None:
    KeyProfileStore(database).add("abcd", CLEAR, alarm=0.9, ladder=[Action.REFUSE])
    config = tmp_path / "stingy.toml"
    config.write_text("" if store is None else f'store = "{store}"')
    state = ["--state", str(tmp_path / "state"), "--config", str(config)]
    shown_json = CliRunner().invoke(cli, ["watch", "--once", "--json", *state])
    (row,) = json.loads(shown_json.stdout)
    assert (row["id"], row["step"], row["score"], row["images"]) == ("abcd", "refuse", 1.0, 300)
    shown = CliRunner().invoke(cli, ["watch", "--once", *state], env={"COLUMNS": "200"})
    assert "abcd" in shown.stdout
    assert "67%" in shown.stdout
    assert CliRunner().invoke(cli, ["keys", "release", "abcd", *state]).exit_code == 0
    assert CliRunner().invoke(cli, ["keys", "release", "abcd", *state]).exit_code == 2


@pytest.mark.parametrize(
    ("then", "ladder"),
    [
        ("nothing", ()),
        ("labels", ("labels",)),
        ("refuse", ("refuse",)),
        (["labels", "refuse"], ("labels", "refuse")),
    ],
)
def test_then_is_a_step_or_a_ladder(then: Any, ladder: tuple[str, ...]) -> None:
    assert WatchSettings(then=then).ladder == ladder
