"""The ledger: entries can be appended and read, not changed or deleted."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from serving import random_images
from stingy_server import Database, StoreUnavailable
from stingy_server.store.ledger import Entry, Ledger
from stingy_server.times import stamp

ENTRY = Entry(stamp(), "r", "k", "m", "1", "f", "aa", 3, 3, 1.5, 200, "answer", 900)


@pytest.fixture
def database(tmp_path: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(tmp_path / "state", store=store)) as database:
        yield database


def test_entries_are_read_as_they_were_appended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(database)
    entries = [ENTRY._replace(request=str(number)) for number in range(5)]
    for entry in entries:
        ledger.append(entry)
    assert [entry for _, entry in ledger.entries()] == entries
    assert [entry for _, entry in ledger.entries(after=ledger.last(2))] == entries[3:]
    monkeypatch.setattr("stingy_server.store.ledger.PAGE", 2)
    assert [entry for _, entry in ledger.entries(after=1)] == entries[1:]


def test_entries_of_one_key_are_read_page_by_page(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stingy_server.store.ledger.PAGE", 2)
    ledger = Ledger(database)
    entries = [ENTRY._replace(request=str(n), key="ab"[n % 2]) for n in range(9)]
    ledger.append(*entries)
    own = [entry for entry in entries if entry.key == "a"]
    assert [entry for _, entry in ledger.entries(key="a")] == own
    assert [entry for _, entry in ledger.entries(after=ledger.last(2, key="a"), key="a")] == own[3:]
    # Of a key without entries, those to come begin behind all that are there.
    assert ledger.last(5, key="c") == ledger.last(0)


@pytest.mark.parametrize("change", ["UPDATE ledger SET images = 0", "DELETE FROM ledger"])
def test_O1_entries_cannot_be_changed_or_deleted(database: Database, change: str) -> None:
    Ledger(database).append(ENTRY)
    with pytest.raises(StoreUnavailable):
        database.execute(change)
    assert len(list(Ledger(database).entries())) == 1


def test_equal_pixels_have_equal_digests_only_under_one_pepper(
    database: Database, tmp_path: Path
) -> None:
    images = random_images(2)
    ledger = Ledger(database)
    assert ledger.digest(images) == ledger.digest(images.copy())
    assert ledger.digest(images) != ledger.digest(images[::-1].copy())
    with closing(Database(tmp_path / "other")) as other:
        assert Ledger(other).digest(images) != ledger.digest(images)
