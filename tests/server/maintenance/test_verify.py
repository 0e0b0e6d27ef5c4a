"""Row K1: a changed, removed, inserted or moved entry of a chain is named; what is not, too."""

from contextlib import closing
from pathlib import Path

import pytest

from ledgers import chain_faults, change_by_hand, present_heads, write_chain
from stingy_server import Database, StoreUnavailable
from stingy_server.maintenance.heads import read_kept_heads
from stingy_server.maintenance.opening import open_reader
from stingy_server.maintenance.verify import verify
from stingy_server.store.ledger import NO_HASH, Entry, Head, Ledger, link

OTHER = {
    "time": "'2020-01-01'",
    "pixels": "NULL",
    "detail": "'{}'",
    **dict.fromkeys(("images", "answered", "status", "latency_us", "requests"), "7"),
    "bits": "1.25",
}


@pytest.fixture
def state(tmp_path: Path, store: str | None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write two chains of five entries, in turns."""
    with closing(Database(tmp_path, store=store)) as database:
        write_chain(database, "aaa", 3, monkeypatch)
        write_chain(database, "bbb", 5, monkeypatch)
        write_chain(database, "aaa", 2, monkeypatch)
    return tmp_path


def test_K1_ledger_as_it_was_written_has_no_fault(state: Path, store: str | None) -> None:
    with closing(open_reader(state, store)) as reader:
        verified = verify(reader, against=present_heads(state, store))
    assert (verified.faults, verified.chained, verified.unchained) == ([], 10, 0)
    assert [(head.writer, head.number) for head in present_heads(state, store)] == [
        ("aaa", 5),
        ("bbb", 5),
    ]


@pytest.mark.parametrize("column", Entry._fields)
def test_K1_changed_column_of_an_entry_is_named(
    state: Path, store: str | None, column: str
) -> None:
    value = OTHER.get(column, "'x'")
    change_by_hand(state, store, f"UPDATE ledger SET {column} = {value} WHERE seq = 5")  # noqa: S608
    (fault,) = chain_faults(state, store)
    assert "chain bbb: entry 5, number 2," in fault


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("DELETE FROM ledger WHERE seq = 1", "chain aaa: expected its number 1, got 2 in entry 2"),
        ("DELETE FROM ledger WHERE seq = 6", "chain bbb: expected its number 3, got 4 in entry 7"),
        ("DELETE FROM ledger WHERE seq = 10", "chain aaa: expected 5 entries, as its head says"),
        ("DELETE FROM ledger WHERE writer = 'aaa'", "chain aaa: expected 5 entries"),
        ("DELETE FROM ledger_heads WHERE writer = 'aaa'", "chain aaa: expected its head"),
        ("UPDATE ledger SET number = 3 WHERE seq = 5", "chain bbb: expected its number 2, got 3"),
        ("UPDATE ledger SET writer = 'bbb' WHERE seq = 9", "chain bbb: expected its number 6"),
        ("UPDATE ledger SET writer = '' WHERE seq = 6", "entry 6: in no chain"),
        ("UPDATE ledger SET hash = NULL WHERE seq = 2", "chain aaa: entry 2, number 2,"),
        ("UPDATE ledger_heads SET number = 4 WHERE writer = 'bbb'", "chain bbb: it does not end"),
    ],
)
def test_K1_removed_moved_or_inserted_entry_is_named(
    state: Path, store: str | None, change: str, expected: str
) -> None:
    change_by_hand(state, store, change)
    faults = chain_faults(state, store)
    assert any(fault.startswith(expected) for fault in faults), faults


def test_K1_entry_inserted_twice_is_named(state: Path, store: str | None) -> None:
    columns = ", ".join((*Entry._fields, *Head._fields))
    copy = f"INSERT INTO ledger ({columns}) SELECT {columns} FROM ledger WHERE seq = 5"  # noqa: S608
    change_by_hand(state, store, copy)
    (fault,) = chain_faults(state, store)
    assert fault == (
        "chain bbb: expected its number 6, got 2 in entry 11: it was inserted or moved"
    )


def rebuild(state: Path, store: str | None) -> None:
    """Change an entry of the chain "bbb", and compute all hashes behind it anew."""
    hashed, statements = NO_HASH, ["UPDATE ledger SET images = 7 WHERE seq = 5"]
    with closing(Database(state, store=store)) as database:
        entries = [(seq, entry) for seq, entry in Ledger(database).entries() if 4 <= seq <= 8]
    for number, (seq, entry) in enumerate(entries, 1):
        hashed = link("bbb", number, hashed, entry._replace(images=7) if seq == 5 else entry)
        value = f"X'{hashed.hex()}'" if store is None else f"'\\x{hashed.hex()}'::bytea"
        statements.append(f"UPDATE ledger SET hash = {value} WHERE seq = {seq}")  # noqa: S608
    statements.append(f"UPDATE ledger_heads SET hash = {value} WHERE writer = 'bbb'")  # noqa: S608
    change_by_hand(state, store, *statements)


def test_K1_rebuilt_chain_shows_against_a_kept_head(state: Path, store: str | None) -> None:
    kept = present_heads(state, store)
    rebuild(state, store)
    assert chain_faults(state, store) == []  # a chain has no secret
    (fault,) = chain_faults(state, store, against=kept)
    assert fault.startswith("chain bbb: entry 8, number 5,")
    assert "rebuilt" in fault


def test_K1_cut_end_shows_against_a_kept_head(
    state: Path, store: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = present_heads(state, store)
    with closing(Database(state, store=store)) as database:
        write_chain(database, "bbb", 2, monkeypatch)
    later = present_heads(state, store)
    (before,) = [head.hash.hex() for head in earlier if head.writer == "bbb"]
    value = f"X'{before}'" if store is None else f"'\\x{before}'::bytea"
    change_by_hand(
        state,
        store,
        "DELETE FROM ledger WHERE seq > 10",
        f"UPDATE ledger_heads SET number = 5, hash = {value} WHERE writer = 'bbb'",  # noqa: S608
    )
    assert chain_faults(state, store) == []
    assert chain_faults(state, store, against=earlier) == []
    (fault,) = chain_faults(state, store, against=later)
    assert fault.startswith("chain bbb: expected at least 7 entries")


def test_K1_deleted_chain_shows_against_a_kept_head(state: Path, store: str | None) -> None:
    kept = present_heads(state, store)
    change_by_hand(
        state,
        store,
        "DELETE FROM ledger WHERE writer = 'aaa'",
        "DELETE FROM ledger_heads WHERE writer = 'aaa'",
    )
    assert chain_faults(state, store) == []
    (fault,) = chain_faults(state, store, against=kept)
    assert fault.startswith("chain aaa: expected at least 5 entries")


GOOD = '{"writer": "aaa", "number": 3, "hash": "' + "0" * 64 + '"}'


def test_kept_heads_are_read_from_a_log(tmp_path: Path) -> None:
    file = tmp_path / "heads"
    file.write_text(f"2026-11-26 INFO stingy.ledger: head of the ledger: {GOOD}\n\n{GOOD}\n")
    assert read_kept_heads(file) == [Head("aaa", 3, NO_HASH)] * 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        "no head",
        "{}",
        GOOD.replace("3", "0"),
        GOOD.replace("3", "true"),
        GOOD.replace("0", "", 2),
        GOOD.replace('"aaa"', "1"),
        GOOD.replace("0" * 64, "z" * 64),
        f"{GOOD}\n{{",
    ],
)
def test_file_without_heads_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "heads"
    file.write_text(content)
    with pytest.raises(StoreUnavailable, match="expected"):
        read_kept_heads(file)
    with pytest.raises(StoreUnavailable):
        read_kept_heads(tmp_path / "absent")
