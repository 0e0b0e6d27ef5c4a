"""Marks in a whole server: whose answers are marked, which inputs, and what is kept of them."""

import asyncio
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from fastapi import FastAPI
from prometheus_client import generate_latest

from infer_requests import outputs, tensor
from marking import (
    IMAGES,
    SECRET,
    alarmed_key,
    choices,
    differing,
    marked_key,
    marked_rows,
    marked_settings,
    write_secret,
)
from serving import make_key, png, running
from stingy_server import Database, Settings
from stingy_server.detection.key_profiles import Action
from stingy_server.marks import marker
from stingy_server.marks.evidence import Answered
from stingy_server.marks.mark_store import MarkStore
from stingy_server.marks.secret import MarkSecret
from stingy_server.settings import Tier, WatchSettings
from stingy_server.store.ledger import Entry, Ledger

pytestmark = pytest.mark.anyio
MARKED = marked_rows(IMAGES)
CONTROLS = [row for row, each in enumerate(choices(IMAGES)) if each.control]


async def answers(client: httpx.AsyncClient, key: str, images: Any = IMAGES) -> list[Any]:
    """Return each image's classes and scores, as a key gets them."""
    response = await client.post(
        "/v2/models/digits/infer", json=tensor(images), headers={"Authorization": f"Bearer {key}"}
    )
    found = outputs(response)
    width = found["indices"]["shape"][1]
    columns = [each["data"] for name, each in sorted(found.items())]
    return [
        [column[start : start + width] for column in columns]
        for start in range(0, len(images) * width, width)
    ]


def kept(settings: Settings, secret: bytes = SECRET.value.hex().encode()) -> list[Answered]:
    with closing(Database(settings.state, create=False)) as database:
        return [each.answered for _, each in MarkStore(database, MarkSecret(secret)).all()]


def ledger(settings: Settings) -> list[Entry]:
    with closing(Database(settings.state, create=False)) as database:
        return [entry for _, entry in Ledger(database).entries()]


def test_the_images_have_marks_and_controls() -> None:
    assert len(MARKED) > 5
    assert len(CONTROLS) > 5


async def test_Y1_alarmed_key_differs_in_marked_inputs_alone(tmp_path: Path) -> None:
    settings = marked_settings(tmp_path)
    honest, suspect = make_key(settings.state), alarmed_key(settings.state)
    async with running(settings) as (client, _):
        plain = await answers(client, honest)
        marked = await answers(client, suspect)
        assert differing(plain, marked) == MARKED
        for row in MARKED:
            assert plain[row][1] == marked[row][1]  # the scores, best first
            assert plain[row][0][0] != marked[row][0][0]
        assert await answers(client, honest) == plain
        # Alone, in a batch, over another route: the same input has the same marked answer.
        for row in (MARKED[0], CONTROLS[0]):
            assert await answers(client, suspect, IMAGES[row : row + 1]) == [marked[row]]
            response = await client.post(
                "/v1/predict/digits",
                content=png(IMAGES[row]),
                headers={"Authorization": f"Bearer {suspect}"},
            )
            (answer,) = response.json()["answers"]
            assert [each["index"] for each in answer["classes"]] == marked[row][0]


async def test_Y2_no_mark_without_an_alarm_or_a_tier(tmp_path: Path) -> None:
    settings = marked_settings(tmp_path, tiers={"suspect": Tier(mark=True), "two": Tier(classes=2)})
    recorded = alarmed_key(settings.state, action=Action.ALARM)
    keys = [make_key(settings.state), make_key(settings.state, tier="two"), recorded]
    async with running(settings) as (client, _):
        plain = await answers(client, keys[0])
        assert [row[0][:2] for row in await answers(client, keys[1])] == [r[0][:2] for r in plain]
        assert await answers(client, keys[2]) == plain
        assert differing(plain, await answers(client, marked_key(settings.state))) == MARKED
    assert len({each.key for each in kept(settings)}) == 1


async def test_Y4_marked_keys_get_the_same_answers_after_a_restart(tmp_path: Path) -> None:
    settings = marked_settings(tmp_path, strict=True)
    keys = [marked_key(settings.state), alarmed_key(settings.state)]
    found = []
    for _ in range(2):
        async with running(settings) as (client, _):
            found += [await answers(client, key) for key in keys]
    assert all(each == found[0] for each in found)


async def test_marks_stay_when_the_ladder_goes_on_to_labels(tmp_path: Path) -> None:
    settings = marked_settings(tmp_path, watch=WatchSettings(then=("mark", "labels")))
    marked, labelled = (
        alarmed_key(settings.state),
        alarmed_key(settings.state, action=Action.LABELS),
    )
    async with running(settings) as (client, _):
        before = await answers(client, marked)
        after = await answers(client, labelled)
    assert [row[0][:1] for row in before] == [row[0] for row in after]


async def test_tier_without_marks_in_the_ladder_keeps_its_marks(tmp_path: Path) -> None:
    settings = marked_settings(tmp_path, watch=WatchSettings(then="labels"))
    key, plain = marked_key(settings.state), make_key(settings.state)
    async with running(settings) as (client, app):
        before, honest = await answers(client, key), await answers(client, plain)
        app.state.service.watch.action = lambda _: Action.LABELS
        assert [row[0] for row in await answers(client, key)] == [row[0][:1] for row in before]
        assert [row[0] for row in await answers(client, plain)] == [row[0][:1] for row in honest]


@pytest.mark.parametrize("policy", ["label", "ranked_labels:n=3", "stingy:n=1"])
async def test_Y3_policies_without_runners_up_are_marked(tmp_path: Path, policy: str) -> None:
    settings = marked_settings(tmp_path, policy=policy)
    async with running(settings) as (client, _):
        plain = await answers(client, make_key(settings.state))
        marked = await answers(client, marked_key(settings.state))
    first = differing([row[0][0] for row in plain], [row[0][0] for row in marked])
    assert first == MARKED


async def test_marks_and_controls_are_kept_once(tmp_path: Path) -> None:
    settings = marked_settings(tmp_path)
    key = marked_key(settings.state)
    async with running(settings) as (client, app):
        plain = await answers(client, make_key(settings.state))
        for _ in range(2):
            marked = await answers(client, key)
        app.state.service.marker.write_waiting()
        await app.state.service.writes.flush()
        metrics = generate_latest(app.state.service.metrics.registry).decode()
    found = kept(settings)
    assert len(found) == len(MARKED) + len(CONTROLS)
    assert sum(each.marked for each in found) == len(MARKED)
    expected = {(each.marked, each.answer) for each in found}
    assert expected == {(row in MARKED, tuple(marked[row][0])) for row in MARKED + CONTROLS}
    for each in found:
        assert [each.top1, *each.runners_up[:2]] in [row[0] for row in plain]
    total = 'stingy_marked_answers_total{model="digits"} '
    assert f"{total}{2 * len(MARKED)}.0" in metrics
    assert f'stingy_marks_kept_total{{model="digits"}} {len(found)}.0' in metrics
    (counted,) = [entry for entry in ledger(settings) if entry.event == "marked"]
    assert orjson.loads(counted.detail or "") == {"answers": 2 * len(MARKED)}


async def test_Y5_number_kept_is_bounded(tmp_path: Path) -> None:
    settings = marked_settings(tmp_path)
    marks = settings.marks
    assert marks is not None
    few = settings.model_copy(update={"marks": marks.model_copy(update={"kept": 6})})
    async with running(few) as (client, _):
        plain = await answers(client, make_key(few.state))
        assert differing(plain, await answers(client, marked_key(few.state))) == MARKED
    assert len(kept(few)) == 3


async def test_Y5_marks_leak_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Compare two servers whose secrets, and so whose marks, differ."""
    caplog.set_level(logging.DEBUG)
    forms = []
    for name in ("one", "two"):
        caplog.clear()
        (tmp_path / name).mkdir()
        settings = marked_settings(tmp_path / name)
        value = name.encode() * 16
        write_secret(tmp_path / name / "marks.secret", value=value)
        async with running(settings) as (client, app):
            key = marked_key(settings.state)
            headers = {"Authorization": f"Bearer {key}"}
            for row in range(0, len(IMAGES), 16):
                await answers(client, key, IMAGES[row : row + 16])
            paths = ("/v1/usage", "/v1/models", "/v2/models/digits/stats")
            shown = [(await client.get(path, headers=headers)).content for path in paths]
            metrics = generate_latest(app.state.service.metrics.registry)
        entries, lines = ledger(settings), [record.getMessage() for record in caplog.records]
        everything = b"".join([*shown, metrics, repr(entries).encode(), repr(lines).encode()])
        assert value not in everything
        for evidence in kept(settings, value):
            assert evidence.coarse.encode() not in everything
        forms.append([(entry.event, entry.images, entry.answered) for entry in entries])
    assert forms[0] == forms[1]


async def test_Y2_key_cannot_read_whether_it_is_marked(tmp_path: Path) -> None:
    settings = marked_settings(tmp_path, tiers={"suspect": Tier(mark=True), "one": Tier(classes=1)})
    keys = [
        make_key(settings.state),
        alarmed_key(settings.state),
        marked_key(settings.state),
    ]
    async with running(settings) as (client, app):
        shown = [await everything_shown(client, app, key) for key in keys]
    assert shown[0] == shown[1] == shown[2]


async def everything_shown(client: httpx.AsyncClient, app: FastAPI, key: str) -> list[Any]:
    """Return the documents about models, and the names of headers of an answer."""
    headers = {"Authorization": f"Bearer {key}"}
    paths = ["/v1/models", "/v2/models/digits", "/v2/models/digits/config"]
    shown: list[Any] = [(await client.get(path, headers=headers)).content for path in paths]
    response = await client.post("/v2/models/digits/infer", json=tensor(IMAGES), headers=headers)
    return [*shown, sorted(response.headers)]


async def test_counts_reach_the_ledger_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = marked_settings(tmp_path)
    key = marked_key(settings.state)
    async with running(settings) as (client, app):
        await answers(client, key)
        app.state.service.marker.write_waiting()
        assert "marked" not in [entry.event for entry in ledger(settings)]
        monkeypatch.setattr(marker, "COUNT_EVERY_S", -1.0)
    async with running(settings) as (client, app):
        await answers(client, key, IMAGES[MARKED[:1]])
        app.state.service.marker.write_waiting()
        await answers(client, key, IMAGES[:1])  # the next query finds that an hour has passed
        await asyncio.sleep(0)
        counted = [entry for entry in ledger(settings) if entry.event == "marked"]
    assert [orjson.loads(entry.detail or "")["answers"] for entry in counted] == [len(MARKED), 1]


async def test_what_is_kept_is_written_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = marked_settings(tmp_path)
    key = marked_key(settings.state)
    monkeypatch.setattr(marker, "LATER_S", (600.0, 600.0))
    async with running(settings) as (client, _):
        await answers(client, key)
        await answers(client, key, IMAGES[:1])
        assert kept(settings) == []
    monkeypatch.setattr(marker, "LATER_S", (0.0, 0.0))
    assert len(kept(settings)) == len(MARKED) + len(CONTROLS)  # the drain has written it
    other = marked_key(settings.state)
    async with running(settings) as (client, _):
        for _ in range(2):
            await answers(client, other)
        assert len({each.key for each in kept(settings)}) == 2


async def test_mark_that_cannot_be_kept_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = marked_settings(tmp_path)

    def fail(*_: object, **__: object) -> bool:
        raise OSError("no space")

    monkeypatch.setattr(MarkStore, "add", fail)
    async with running(settings) as (client, _):
        await answers(client, marked_key(settings.state), IMAGES[MARKED[:1]])
    assert "cannot keep a marked input" in caplog.text
