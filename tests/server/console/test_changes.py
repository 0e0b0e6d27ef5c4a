"""Rows V4 and V6: a console that reads changes nothing; a change is in the ledger with its user."""

import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from console_pages import OPERATOR, make_state, opened
from released import RELEASED
from stingy_server import Database, Keys
from stingy_server.console import feed
from stingy_server.console.state_view import StateView
from stingy_server.detection.key_profiles import Action, KeyProfileStore, Observation
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import FILE
from stingy_server.store.ledger import Entry, Ledger

BY = f'{{"by":"{OPERATOR}","through":"console"}}'
COPIES = Observation(
    images=200, bits=900.0, novel=200, near=150, classes={"digits": (10, {1: 200})}
)


def raise_alarm(state: Path, key_id: str) -> None:
    with closing(Database(state)) as database:
        ladder = [Action.LABELS]
        KeyProfileStore(database).add(key_id, COPIES, alarm=0.9, ladder=ladder)


def entries(state: Path) -> list[Entry]:
    with closing(Database(state)) as database:
        return [entry for _, entry in Ledger(database).entries()]


@pytest.mark.anyio
async def test_V6_release_is_in_the_ledger_with_its_user(tmp_path: Path) -> None:
    ((key, _),) = make_state(tmp_path, "mallory")
    raise_alarm(tmp_path, key.id)
    async with opened(tmp_path, writer=OPERATOR) as page:
        before = await page.key(key.id)
        assert (before["alarm"], before["action"]) == (True, "labels")
        assert (await page.change(key.id, "release")).status_code == 200
        after = await page.key(key.id)
        assert (after["alarm"], after["action"]) == (False, "none")
    found = entries(tmp_path)[-1]
    assert (found.event, found.key, found.detail) == ("released", key.id, BY)


@pytest.mark.anyio
async def test_V6_revoke_is_in_the_ledger_with_its_user(tmp_path: Path) -> None:
    ((key, text),) = make_state(tmp_path, "mallory")
    async with opened(tmp_path, writer=OPERATOR) as page:
        assert (await page.change(key.id, "revoke")).status_code == 200
        assert (await page.key(key.id))["state"] == "revoked"
        second = await page.change(key.id, "revoke")
        assert (second.status_code, second.json()["fault"]) == (409, feed.NOT_VALID)
    (found,) = entries(tmp_path)
    assert (found.event, found.key, found.detail) == ("key_revoked", key.id, BY)
    with closing(Database(tmp_path)) as database:
        assert Keys(database).authenticate(text) is None


@pytest.mark.anyio
@pytest.mark.parametrize("action", ["release", "revoke"])
async def test_V4_console_that_reads_refuses_changes(tmp_path: Path, action: str) -> None:
    ((key, _),) = make_state(tmp_path, "mallory")
    raise_alarm(tmp_path, key.id)
    async with opened(tmp_path) as page:
        document = await page.document()
        assert (document["writer"], document["csrf"]) == (None, None)
        session = page.access.find(str(page.client.cookies[page.access.cookie_name]))
        assert session is not None
        response = await page.change(key.id, action, **{"X-CSRF-Token": session.csrf})
        assert response.status_code == 403
        found = await page.key(key.id)
        assert (found["state"], found["action"]) == ("valid", "labels")
    assert [entry.event for entry in entries(tmp_path)] == ["alarm_labels"]


@pytest.mark.anyio
async def test_V4_console_that_reads_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    make_state(tmp_path, "mallory")
    before = (tmp_path / FILE).read_bytes()
    async with opened(tmp_path) as page:
        assert len((await page.document())["keys"]) == 1
    assert (tmp_path / FILE).read_bytes() == before


def test_V4_state_of_another_release_is_refused_and_not_upgraded(tmp_path: Path) -> None:
    shutil.copytree(RELEASED, tmp_path / "state")
    before = (tmp_path / "state" / FILE).read_bytes()
    with pytest.raises(StoreUnavailable, match=r"expected state of version \d in .*, got 3: start"):
        StateView(tmp_path / "state", None).database()
    assert (tmp_path / "state" / FILE).read_bytes() == before


@pytest.mark.anyio
async def test_change_of_a_locked_state_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((key, _),) = make_state(tmp_path, "mallory")
    monkeypatch.setattr(feed, "Database", partial(Database, lock_timeout_s=0.05))
    async with opened(tmp_path, writer=OPERATOR) as page:
        with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            response = await page.change(key.id, "revoke")
            assert (response.status_code, response.json()["fault"]) == (503, feed.BUSY)
            found = await page.key(key.id)  # a locked state can be read
            assert found["state"] == "valid"
        assert (await page.change(key.id, "revoke")).status_code == 200


@pytest.mark.anyio
async def test_release_of_a_key_without_an_alarm_is_refused(tmp_path: Path) -> None:
    ((key, _),) = make_state(tmp_path, "alice")
    async with opened(tmp_path, writer=OPERATOR) as page:
        response = await page.change(key.id, "release")
        assert (response.status_code, response.json()["fault"]) == (409, feed.NOT_IN_ALARM)
        assert (await page.change("nobody", "revoke")).status_code == 409
    assert entries(tmp_path) == []
