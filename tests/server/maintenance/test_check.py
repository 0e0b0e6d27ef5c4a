"""Row K8: `stingy state check` finds what is wrong with a state, and changes nothing."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ledgers import ENTRY, change_by_hand
from released import RELEASED, released_postgres
from stingy_server import Budgets, Database, Keys, StoreUnavailable
from stingy_server.maintenance.check import check_state
from stingy_server.store.budgets import key_owner
from stingy_server.store.database import FILE
from stingy_server.store.ledger import Ledger
from stingy_server.store.pepper import PEPPER


@pytest.fixture
def state(tmp_path: Path, store: str | None) -> Iterator[Path]:
    """Make a state with one key that was answered two images and charged for three."""
    with closing(Database(tmp_path, store=store)) as database:
        key, _ = Keys(database).create("k", budget=5)
        Budgets(database).reserve([key_owner(key.id)], 3)
        entry = ENTRY._replace(key=key.id)
        Ledger(database).append(entry, entry, entry._replace(event="cancelled", answered=0))
        yield tmp_path  # open meanwhile, as a server has it


def test_K8_state_as_it_was_written_has_no_fault(state: Path, store: str | None) -> None:
    checked = check_state(state, store)
    assert checked.faults == []
    assert any("3 entries in chains" in note for note in checked.notes)
    assert any("1 keys" in note for note in checked.notes)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("UPDATE ledger SET images = 9 WHERE seq = 2", "ledger: chain "),
        ("UPDATE budgets SET used = 1", "expected at least 2 images charged"),
        ("UPDATE budgets SET day_used = 4", "expected no more images in a day"),
        ("DELETE FROM budgets", "expected a budget"),
        ("UPDATE keys SET rate = '600/minute; 9/second'", "expected a rate such as 600/minute"),
        ("ALTER TABLE keys DROP COLUMN request_rate", "expected the column keys.request_rate"),
    ],
)
def test_K8_content_that_was_changed_is_a_fault(
    state: Path, store: str | None, change: str, fault: str
) -> None:
    change_by_hand(state, store, change)
    assert any(fault in found for found in check_state(state, store).faults)


FILE_TRIGGERS = [
    ("DROP TRIGGER ledger_keeps", "expected the trigger ledger_keeps"),
    ("DROP TRIGGER ledger_holds", "expected the trigger ledger_holds"),
    (
        "CREATE TRIGGER spy AFTER INSERT ON ledger BEGIN SELECT 1; END",
        "expected no other triggers, got spy",
    ),
]
POSTGRES_TRIGGERS = [
    ("ALTER TABLE ledger DISABLE TRIGGER ledger_keeps", "or a disabled one"),
    ("DROP TRIGGER ledger_keeps ON ledger", "got none"),
    (
        "CREATE OR REPLACE FUNCTION ledger_only_grows() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN RETURN NULL; END $$",
        "got another",
    ),
    (
        "CREATE TRIGGER spy AFTER INSERT ON ledger EXECUTE FUNCTION ledger_only_grows()",
        "expected no other triggers, got spy",
    ),
]


@pytest.mark.parametrize(("change", "fault"), FILE_TRIGGERS)
def test_K8_missing_trigger_of_a_file_is_a_fault(tmp_path: Path, change: str, fault: str) -> None:
    with closing(Database(tmp_path)) as database:
        database.execute(change)
    (found,) = check_state(tmp_path, None).faults
    assert fault in found


@pytest.mark.parametrize(("change", "fault"), POSTGRES_TRIGGERS)
def test_K8_missing_trigger_of_postgresql_is_a_fault(
    tmp_path: Path, address: str, change: str, fault: str
) -> None:
    with closing(Database(tmp_path, store=address)) as database:
        database.execute(change)
    (found,) = check_state(tmp_path, address).faults
    assert fault in found


def test_K8_wrong_or_missing_pepper_is_a_fault(state: Path, store: str | None) -> None:
    for content in (bytes(32), b"short"):
        (state / PEPPER).write_bytes(content)
        (fault,) = check_state(state, store).faults
        assert fault.startswith("pepper: expected")
    (state / PEPPER).unlink()
    (fault,) = check_state(state, store).faults
    assert fault.startswith("pepper: expected")
    assert not (state / PEPPER).exists()


def test_K8_damaged_pages_are_a_fault(tmp_path: Path) -> None:
    with closing(Database(tmp_path)) as database:
        Ledger(database).append(*[ENTRY] * 2000)
    content = bytearray((tmp_path / FILE).read_bytes())
    middle = len(content) // 8192 * 4096
    content[middle : middle + 4096] = bytes(4096)
    (tmp_path / FILE).write_bytes(content)
    assert check_state(tmp_path, None).faults[0].startswith("pages: ")


def test_K8_state_of_0_1_0_is_checked_and_not_upgraded(tmp_path: Path, store: str | None) -> None:
    state = tmp_path / "state"
    shutil.copytree(RELEASED, state)
    if store is not None:
        released_postgres(store)
        (state / FILE).unlink()
    for _ in range(2):
        checked = check_state(state, store)
        assert checked.faults == []
        assert "a state of version 3" in checked.notes[0]


def test_absent_state_is_refused_and_not_created(tmp_path: Path, store: str | None) -> None:
    with pytest.raises(StoreUnavailable, match="expected"):
        check_state(tmp_path / "state", store)
    assert not (tmp_path / "state").exists()
