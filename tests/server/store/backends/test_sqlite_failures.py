"""The sentences of SQLite's failures: each names what was found, and what to do."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from stingy_server import Database
from stingy_server.maintenance.opening import open_reader
from stingy_server.store.backends.sqlite_failures import store_failure
from stingy_server.store.base import StoreBusy, StoreUnavailable
from stingy_server.store.database import FILE


@pytest.fixture
def state(tmp_path: Path) -> Path:
    Database(tmp_path / "state").close()
    return tmp_path / "state"


def test_locked_state_says_that_another_process_has_it(state: Path) -> None:
    with closing(sqlite3.connect(state / FILE, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match="locked by another process: try once more"):
            Database(state, lock_timeout_s=0.01)


def test_file_that_is_no_state_says_that_it_is_damaged(state: Path) -> None:
    (state / FILE).write_bytes(b"no database" * 500)
    for opening in (Database, lambda state: open_reader(state, None)):
        with pytest.raises(StoreUnavailable, match="got a damaged file or one of another"):
            opening(state)


def failure(statement: str, *, mode: str, file: Path) -> StoreUnavailable:
    with closing(sqlite3.connect(f"file:{file}?mode={mode}", uri=True)) as connection:
        connection.execute("PRAGMA max_page_count = 1")
        with pytest.raises(sqlite3.Error) as raised:
            connection.execute(statement)
    return store_failure(raised.value)


def test_write_to_a_file_for_reading_names_the_user(state: Path) -> None:
    found = failure("CREATE TABLE more (x BLOB)", mode="ro", file=state / FILE)
    assert "that this user can write" in str(found)


def test_full_disk_is_named(state: Path) -> None:
    found = failure("CREATE TABLE more (x BLOB)", mode="rwc", file=state / "new")
    assert "got a full one" in str(found)


def test_state_with_other_tables_is_to_be_checked(state: Path) -> None:
    found = failure("SELECT id FROM keyz", mode="rw", file=state / FILE)
    assert "`stingy state check` lists what differs" in str(found)


def test_busy_is_the_only_failure_to_try_once_more(state: Path) -> None:
    assert not isinstance(store_failure(sqlite3.OperationalError("disk")), StoreBusy)
    assert str(store_failure(sqlite3.OperationalError("/a/path"))) == (
        "the state failed: OperationalError"
    )


@pytest.mark.parametrize("name", ["x" * 300, "file"])
def test_folder_that_is_none_is_named_by_its_reason(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="expected a writable state folder at"):
        Database(tmp_path / name)
    for opening in (
        lambda state: Database(state, create=False),
        lambda state: open_reader(state, None),
    ):
        with pytest.raises(StoreUnavailable, match=r"expected .*, got"):
            opening(tmp_path / name)
