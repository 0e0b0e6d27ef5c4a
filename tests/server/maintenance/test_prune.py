"""Row K6: the oldest entries go, the rest can be verified, and servers and budgets go on."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from ledgers import ENTRY, chain_faults, change_by_hand, present_heads
from serving import make_bundle, make_settings, png, random_images, running
from stingy_server import Database, StoreUnavailable
from stingy_server.maintenance import prune as prune_module
from stingy_server.maintenance.check import check_state
from stingy_server.maintenance.prune import parse_moment, prune
from stingy_server.store.ledger import Entry, Ledger
from stingy_server.times import stamp

CUT = datetime(2026, 6, 1, tzinfo=UTC)
OLD, NEW = CUT - timedelta(microseconds=1), CUT


def write(database: Database, writer: str, moments: list[datetime], patch: Any) -> None:
    patch.setattr("stingy_server.store.ledger._writer", lambda process: writer)
    ledger = Ledger(database)
    for moment in moments:
        ledger.append(ENTRY._replace(time=stamp(moment)))


@pytest.fixture
def database(
    tmp_path: Path, store: str | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """Write a chain that is old, and one that goes on; then prune under a third name."""
    with closing(Database(tmp_path, store=store)) as database:
        write(database, "ended", [OLD] * 3, monkeypatch)
        write(database, "going", [OLD] * 4 + [NEW] * 2, monkeypatch)
        monkeypatch.setattr("stingy_server.store.ledger._writer", lambda process: "pruning")
        yield database


def rest(database: Database) -> list[tuple[int, Entry]]:
    return [*Ledger(database).entries()]


def test_K6_older_entries_go_and_an_entry_says_so(
    database: Database, tmp_path: Path, store: str | None
) -> None:
    heads = present_heads(tmp_path, store)
    (pruned,) = prune(database, before=CUT)
    assert (pruned.entries, pruned.last) == (7, 7)
    assert [(seq, entry.event) for seq, entry in rest(database)] == [
        (8, "answer"),
        (9, "answer"),
        (10, "pruned"),
    ]
    detail = orjson.loads(rest(database)[-1][1].detail or "")
    assert (detail["entries"], detail["last"], detail["before"]) == (7, 7, stamp(CUT))
    assert {writer: number for writer, (number, _) in detail["chains"].items()} == {
        "ended": 3,
        "going": 4,
    }
    assert chain_faults(tmp_path, store, against=heads) == []
    assert check_state(tmp_path, store).faults == []
    assert [*prune(database, before=CUT)] == []


def test_K6_chain_goes_on_behind_its_cut(
    database: Database, tmp_path: Path, store: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(prune(database, before=CUT))
    write(database, "going", [NEW], monkeypatch)
    write(database, "ended", [NEW], monkeypatch)  # it had no entry left
    assert chain_faults(tmp_path, store) == []


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM ledger WHERE seq = 8",
        "DELETE FROM ledger WHERE event = 'pruned'",
        "UPDATE ledger SET detail = '{\"chains\": {}}' WHERE event = 'pruned'",
        "UPDATE ledger SET detail = NULL WHERE event = 'pruned'",
        "UPDATE ledger SET detail = '{\"chains\": {\"going\": 1}}' WHERE event = 'pruned'",
        "UPDATE ledger SET images = 0 WHERE seq = 8",
    ],
)
def test_K6_change_behind_a_cut_is_named(
    database: Database, tmp_path: Path, store: str | None, change: str
) -> None:
    list(prune(database, before=CUT))
    change_by_hand(tmp_path, store, change)
    assert chain_faults(tmp_path, store) != []


def test_K6_steps_are_whole_and_later_prunings_go_on(
    database: Database, tmp_path: Path, store: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_module, "BATCH", 2)
    steps = prune(database, before=CUT)
    assert next(steps).last == 2
    assert chain_faults(tmp_path, store) == []  # an interrupted pruning
    assert [step.last for step in steps] == [4, 6, 7]
    write(database, "going", [NEW] * 3, monkeypatch)
    assert [step.entries for step in prune(database, before=datetime.now(UTC))] == [2, 2, 1]
    assert [entry.event for _, entry in rest(database)] == ["pruned"] * 7
    assert chain_faults(tmp_path, store) == []


def test_K6_step_that_fails_changes_nothing(
    database: Database, tmp_path: Path, store: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rest(database)

    def fail(*_: object) -> list[None]:
        raise StoreUnavailable("no room")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "append_all", fail)
        with pytest.raises(StoreUnavailable, match="no room"):
            list(prune(database, before=CUT))
    assert rest(database) == before
    with pytest.raises(StoreUnavailable):
        database.execute("DELETE FROM ledger")
    assert check_state(tmp_path, store).faults == []


def test_K6_entries_behind_a_newer_one_stay(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(database, "going", [OLD], monkeypatch)  # a clock that was set back
    list(prune(database, before=CUT))
    assert [seq for seq, _ in rest(database)] == [8, 9, 10, 11]


def test_K6_user_who_does_not_own_the_tables_is_refused(tmp_path: Path, address: str) -> None:
    psycopg = pytest.importorskip("psycopg")
    Database(tmp_path, store=address).close()
    with psycopg.connect(address, autocommit=True) as owner:
        owner.execute("DROP ROLE IF EXISTS pruner")
        owner.execute("CREATE ROLE pruner LOGIN")
        owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO pruner")
    with closing(Database(tmp_path, store=address)) as database:
        Ledger(database).append(ENTRY)
    other = address.replace("//stingy@", "//pruner@")
    with (
        closing(Database(tmp_path, store=other)) as database,
        pytest.raises(StoreUnavailable, match="expected the owner"),
    ):
        list(prune(database, before=datetime.now(UTC)))
    with closing(Database(tmp_path, store=address)) as database:
        assert len(rest(database)) == 1


@pytest.mark.anyio
async def test_K6_server_answers_while_its_ledger_is_pruned(
    tmp_path: Path, store: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_module, "BATCH", 500)
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), store=store)
    image = png(random_images(1)[0])
    with closing(Database(tmp_path / "s", store=store, lock_timeout_s=60)) as database:
        Ledger(database).append(*[ENTRY._replace(time=stamp(OLD))] * 2000)
    async with running(settings) as (client, app):
        service = app.state.service
        other = Database(tmp_path / "s", store=store, lock_timeout_s=60)
        pruning = asyncio.create_task(asyncio.to_thread(lambda: [*prune(other, before=CUT)]))
        answered = 0
        while not pruning.done() or answered < 5:
            assert (await client.post("/v1/predict/digits", content=image)).status_code == 200
            answered += 1
        assert sum(step.entries for step in await pruning) == 2000
        other.close()
        ((_, budget),) = service.keys.all()
        assert budget.used == answered
    assert chain_faults(tmp_path / "s", store) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_dates_are_of_utc_unless_they_say_otherwise(given: str, expected: datetime) -> None:
    assert parse_moment(given) == expected


@pytest.mark.parametrize("given", ["", "yesterday", "31.1.2026", "2999-01-01"])
def test_date_that_is_none_or_to_come_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="expected a"):
        parse_moment(given)
