"""Refusals of one second share an entry of the ledger, and none is lost by a clean stop."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from serving import make_bundle, make_key, make_settings, png, random_images, running
from stingy_server import Database
from stingy_server.store import refusal_tally
from stingy_server.store.group_commit import GroupCommit
from stingy_server.store.ledger import Entry, Ledger
from stingy_server.store.refusal_tally import RefusalTally
from stingy_server.times import stamp

pytestmark = pytest.mark.anyio
REFUSAL = Entry(stamp(), "r", "k", "m", "1", "f", None, 3, 0, 0.0, 429, "rate_limited", 900)
PREDICT = "/v1/predict/digits"
IMAGE = png(random_images(1)[0])


@pytest.fixture
def database(tmp_path: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(tmp_path / "state", store=store)) as database:
        yield database


def counts(database: Database) -> list[int]:
    return [entry.requests for _, entry in Ledger(database).entries()]


async def until_counted(database: Database, expected: list[int]) -> None:
    async with asyncio.timeout(30):
        while counts(database) != expected:
            await asyncio.sleep(0.01)


async def test_C5_refusals_of_a_second_share_an_entry(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal_tally, "WINDOW_S", 0.05)
    tally = RefusalTally(Ledger(database), GroupCommit(database))
    kinds = [REFUSAL, REFUSAL._replace(event="cancelled"), REFUSAL._replace(key="other")]
    for entry in kinds:
        assert not tally.add(entry)  # the caller writes the first of each kind
        assert [tally.add(entry._replace(request="s", images=5)) for _ in range(9)] == [True] * 9
    assert counts(database) == []
    await until_counted(database, [9, 9, 9])
    entries = [entry for _, entry in Ledger(database).entries()]
    assert entries[0] == REFUSAL._replace(request="s", images=45, latency_us=8100, requests=9)
    assert [(e.key, e.event) for e in entries] == [(e.key, e.event) for e in kinds]
    assert not tally.add(REFUSAL)  # another second
    tally.write()
    assert counts(database) == [9, 9, 9]


async def test_C5_counted_refusals_are_kept_while_the_store_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(refusal_tally, "WINDOW_S", 0.1)
    with closing(Database(tmp_path / "s", lock_timeout_s=0.01)) as database:
        tally = RefusalTally(Ledger(database), GroupCommit(database))
        with closing(sqlite3.connect(tmp_path / "s" / "stingy.sqlite3")) as other:
            other.execute("BEGIN IMMEDIATE")
            assert [tally.add(REFUSAL) for _ in range(5)] == [False, *[True] * 4]
            monkeypatch.setattr(refusal_tally, "WINDOW_S", 2.0)  # the next one, with time to unlock
            async with asyncio.timeout(30):
                while "cannot write the counted refusals" not in caplog.text:
                    await asyncio.sleep(0.01)
            assert tally.add(REFUSAL)
            other.execute("ROLLBACK")
        await until_counted(database, [5])


async def test_C5_spent_key_makes_the_ledger_grow_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal_tally, "WINDOW_S", 3600.0)  # the whole test is one second
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        headers = {"Authorization": f"Bearer {make_key(settings.state, budget=1)}"}
        statuses = Counter(
            [
                (await client.post(PREDICT, content=content, headers=headers)).status_code
                for content in [IMAGE, *[IMAGE] * 50, *[b"x"] * 50]
            ]
        )
    assert statuses[200] == 1
    with closing(Database(settings.state)) as database:
        entries = [entry for _, entry in Ledger(database).entries()]
    # The key is refused by its charge at first, and from then on by its head. Its one image is both
    # 80 and 95 % of its budget.
    assert len(entries) <= 3 + 2 * 2 + 2
    recorded: Counter[int] = Counter()
    for entry in entries:
        recorded[entry.status] += entry.requests
    # 0 for the start, the stop and the two shares of the budget
    assert recorded - Counter({0: 4}) == statuses
