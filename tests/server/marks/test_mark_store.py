"""The rows of the marks in SQLite and in PostgreSQL."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from marking import OTHER_SECRET, SECRET, evidence
from stingy_server import Database
from stingy_server.maintenance.backup import back_up
from stingy_server.maintenance.check import check_state
from stingy_server.maintenance.restore import restore
from stingy_server.marks.evidence import EvidenceUnreadable
from stingy_server.marks.mark_store import LOCKS, MarkStore, forget
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import FILE
from stingy_server.store.ledger import Ledger


@pytest.fixture
def database(tmp_path: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(tmp_path / "state", store=store)) as database:
        yield database


def add(database: Database, *numbers: int, key: str = "k", kept: int = 1000) -> list[bool]:
    store = MarkStore(database, SECRET)
    with database.transaction(locks=LOCKS):
        return [store.add(evidence(number, key=key), kept=kept) for number in numbers]


def kept_numbers(database: Database) -> Counter[str]:
    return Counter(e.answered.key for _, e in MarkStore(database, SECRET).all())


def test_marks_are_read_as_they_were_kept(database: Database) -> None:
    assert add(database, 1, 2) == [True, True]
    assert add(database, 1, 2, 3) == [False, False, True]  # each input of a key once
    assert add(database, 1, key="other") == [True]
    assert kept_numbers(database) == {"k": 3, "other": 1}
    found = {e.answered.request: e for _, e in MarkStore(database, SECRET).all()}
    assert found[f"{2:016x}"].answered == evidence(2).answered
    assert (found[f"{2:016x}"].pixels == evidence(2).pixels).all()


def test_Y5_number_is_bounded_and_a_key_alone_gets_half(database: Database) -> None:
    add(database, *range(30), kept=20)
    assert kept_numbers(database) == {"k": 10}
    add(database, *range(30), key="other", kept=20)
    assert kept_numbers(database) == {"k": 10, "other": 5}
    for key in "abcdefghij":
        add(database, *range(30), key=key, kept=20)
    assert kept_numbers(database).total() <= 20


def test_forget_deletes_earlier_days_and_the_ledger_has_it(database: Database) -> None:
    add(database, 1, 2)
    today = datetime.now(UTC).date()
    assert forget(database, before=today, detail={"by": "me"}) == 0
    assert kept_numbers(database).total() == 2
    assert forget(database, before=today + timedelta(days=1), detail={"by": "me"}) == 2
    assert kept_numbers(database).total() == 0
    entries = [entry for _, entry in Ledger(database).entries()]
    assert [entry.event for entry in entries] == ["marks_secret", *["marks_forgotten"] * 2]
    assert '"inputs":2' in (entries[-1].detail or "")
    assert not MarkStore(database, OTHER_SECRET).is_known()  # another secret may follow


def test_running_server_does_not_mix_two_secrets(database: Database) -> None:
    add(database, 1)
    forget(database, before=datetime.now(UTC).date() + timedelta(days=1), detail={})
    MarkStore(database, OTHER_SECRET).adopt()
    with pytest.raises(StoreUnavailable, match="expected the secret"):
        add(database, 2)


def test_Y5_swapped_rows_are_found(database: Database) -> None:
    add(database, 1, 2)
    (first, body), (second, other) = database.execute("SELECT id, body FROM marks").fetchall()
    for row, content in ((first, other), (second, body)):
        database.execute("UPDATE marks SET body = ? WHERE id = ?", (bytes(content), bytes(row)))
    with pytest.raises(EvidenceUnreadable):
        list(MarkStore(database, SECRET).all())


def test_Y5_state_shows_no_key_and_no_pixel(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "state")) as database:
        add(database, *range(20), key="the-suspect")
    written = b"".join(path.read_bytes() for path in (tmp_path / "state").glob(f"{FILE}*"))
    assert b"marks_owner" in written  # the table is there
    for shown in (b"the-suspect", f"{7:064x}".encode(), evidence(7).pixels.tobytes()[:6]):
        assert shown not in written


def test_marks_survive_a_backup_and_a_restore(
    tmp_path: Path, database: Database, store: str | None
) -> None:
    add(database, 1, 2)
    back_up(tmp_path / "state", store, tmp_path / "backup")
    assert check_state(tmp_path / "state", store).faults == []
    restore(tmp_path / "backup", tmp_path / "new", None, replace=False)
    with closing(Database(tmp_path / "new")) as restored:
        assert kept_numbers(restored) == {"k": 2}
