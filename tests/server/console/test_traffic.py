"""The counts over the ledger: by increments, for entries that come late, and for old ones."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from console_pages import add_entries, entry
from stingy_server import Database
from stingy_server.console import traffic as counts
from stingy_server.console.series import summary
from stingy_server.console.traffic import Endpoint, Traffic
from stingy_server.store.ledger import event_entry
from stingy_server.times import stamp

DIGITS = Endpoint("digits", "1", "f0")


@pytest.fixture
def database(tmp_path: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(tmp_path, store=store)) as database:
        yield database


def read(database: Database, traffic: Traffic | None = None) -> Traffic:
    traffic = traffic or Traffic()
    traffic.read(database, now=time.time())
    return traffic


def test_each_entry_is_counted_once(database: Database, tmp_path: Path, store: str | None) -> None:
    add_entries(tmp_path, [entry("a"), entry("a"), entry("b")], store=store)
    traffic = read(database)
    add_entries(tmp_path, [entry("a", answered=5)], store=store)
    for _ in range(3):
        read(database, traffic)
    assert traffic.answered["a"] == {DIGITS: 9}
    assert traffic.answered["b"] == {DIGITS: 2}
    assert [each.key for each in traffic.entries("all")] == ["a", "b", "a", "a"]
    assert traffic.complete


def test_entry_that_comes_late_is_counted(
    database: Database, tmp_path: Path, store: str | None
) -> None:
    if store is None:
        pytest.skip("one writer at a time, so no entry has a lower number than one before it")
    import psycopg

    add_entries(tmp_path, [entry("a")], store=store)
    traffic = read(database)
    with psycopg.connect(store) as other:
        columns = ", ".join(entry("late")._fields)
        places = ", ".join(["%s"] * len(entry("late")))
        other.execute(
            f"INSERT INTO ledger ({columns}) VALUES ({places})".encode(),  # noqa: S608
            tuple(entry("late")),
        )
        add_entries(tmp_path, [entry("b")], store=store)
        read(database, traffic)
        assert "late" not in traffic.last_s
    read(database, traffic)
    assert traffic.answered["late"] == {DIGITS: 2}
    assert traffic.answered["a"] == traffic.answered["b"] == {DIGITS: 2}


def test_summary_has_rates_refusals_times_and_bits(database: Database, tmp_path: Path) -> None:
    now = time.time()
    refusal = {"status": 429, "event": "rate_limited", "answered": 0, "bits": 0.0}
    written = [entry("a", ago_s=4, now=now, latency_us=1000 * each) for each in range(1, 101)]
    written += [entry("a", ago_s=4, now=now, requests=25, latency_us=10**9, **refusal)]
    written += [entry("b", ago_s=0.5, now=now, answered=1000)]  # not settled yet
    add_entries(tmp_path, written, store=database._opened[1])
    traffic = Traffic()
    traffic.read(database, now=now)
    found = summary(traffic.seconds(now))
    assert found["images"]["value"] == 20.0
    assert found["refused"]["value"] == 20.0
    assert found["p99"]["value"] == 99.0
    assert found["bits"]["value"] == 5.0
    assert all(len(series["seconds"]) == counts.SECONDS for series in found.values())
    assert [value for value in found["images"]["seconds"] if value] == [200]


def test_empty_ledger_has_no_times_and_no_bits(database: Database) -> None:
    found = summary(read(database).seconds(time.time()))
    values = {name: series["value"] for name, series in found.items()}
    assert values == {"images": 0.0, "refused": None, "p99": None, "bits": None}


def test_old_entries_are_added_up_by_pages(
    database: Database, tmp_path: Path, store: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "FIRST", 10)
    monkeypatch.setattr(counts, "PAGE", 30)
    refused = entry("a", answered=0, images=7, event="overloaded", status=503)
    written = [entry("a", ago_s=1e5 - number) for number in range(99)]
    add_entries(tmp_path, [*written, refused], store=store)
    traffic = read(database)
    assert not traffic.complete
    assert traffic.answered["a"][DIGITS] < 198
    for _ in range(3):
        read(database, traffic)
    assert traffic.complete
    assert traffic.answered["a"] == {DIGITS: 198}


def test_alarms_and_operators_are_events(database: Database, tmp_path: Path) -> None:
    store = database._opened[1]
    alarm = event_entry(stamp(), "alarm", key="a")
    released = event_entry(stamp(), "released", key="a", detail={"by": "olga@host"})
    add_entries(tmp_path, [entry("a"), alarm, released], store=store)
    traffic = read(database)
    assert [each.event for each in traffic.entries("events")] == ["released", "alarm"]
    assert traffic.alarms["a"].event == "released"
    assert [each.event for each in traffic.of_key(database, "a")] == ["released", "alarm", "answer"]


def test_minutes_of_a_key_are_those_of_the_last_half_hour(
    database: Database, tmp_path: Path
) -> None:
    now = time.time()
    written = [entry("a", ago_s=seconds, now=now) for seconds in (90, 90, 3 * 3600)]
    add_entries(tmp_path, written, store=database._opened[1])
    traffic = read(database)
    found = traffic.minutes("a", now)
    assert found is not None
    assert (len(found), sum(found)) == (counts.MINUTES, 4)
    assert traffic.minutes("b", now) is None
    assert traffic.model_rate("digits", "1", now) == 0.0
