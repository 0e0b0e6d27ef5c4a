"""Ledgers: written by several processes, changed by the owner of their store, and verified."""

import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from stingy_server import Budgets, Database
from stingy_server.maintenance.reader import open_reader
from stingy_server.maintenance.verify import read_heads, verify
from stingy_server.store.budgets import key_owner
from stingy_server.store.database import FILE
from stingy_server.store.ledger import Entry, Head, Ledger
from stingy_server.times import stamp

ENTRY = Entry(stamp(), "r", "k", "m", "1", "f", "aa", 1, 1, 1.5, 200, "answer", 900)


def write_chain(database: Database, writer: str, entries: int, patch: pytest.MonkeyPatch) -> None:
    """Append entries one by one, as a process of this name does."""
    patch.setattr("stingy_server.store.ledger._writer", lambda process: writer)
    ledger = Ledger(database)
    for number in range(entries):
        ledger.append(ENTRY._replace(request=f"{writer}-{number}"))


def chain_faults(state: Path, store: str | None, *, against: Sequence[Head] = ()) -> list[str]:
    """Verify a ledger and return the faults."""
    with closing(open_reader(state, store)) as reader:
        return verify(reader, against=against).faults


def present_heads(state: Path, store: str | None) -> list[Head]:
    with closing(open_reader(state, store)) as reader:
        return read_heads(reader)


def change_by_hand(state: Path, store: str | None, *statements: str) -> None:
    """Run statements as the owner of a store can, who lifts the triggers and puts them back."""
    if store is None:
        with closing(sqlite3.connect(state / FILE)) as connection:
            triggers = connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall()
            for name, _ in triggers:
                connection.execute(f"DROP TRIGGER {name}")
            for statement in statements:
                connection.execute(statement)
            for _, statement in triggers:
                connection.execute(statement)
            connection.commit()
        return
    import psycopg

    with psycopg.connect(store) as connection:
        connection.execute("ALTER TABLE ledger DISABLE TRIGGER ALL")
        for statement in statements:
            connection.execute(statement.encode())
        connection.execute("ALTER TABLE ledger ENABLE TRIGGER ALL")


def append_many(state: Path, store: str | None, entries: int) -> None:
    """Append entries in one process, one in each transaction."""
    with closing(Database(state, store=store, lock_timeout_s=60)) as database:
        ledger = Ledger(database)
        for number in range(entries):
            ledger.append(ENTRY._replace(request=str(number)))


def charge_and_append(state: Path, store: str | None, key_id: str) -> None:
    """Charge an image and append its entry in one transaction, until this process is killed."""
    with closing(Database(state, store=store, lock_timeout_s=60)) as database:
        budgets, ledger = Budgets(database), Ledger(database)
        while True:
            with database.transaction(locks=(key_owner(key_id),)):
                budgets.reserve([key_owner(key_id)], 1)
                ledger.append_all([ENTRY._replace(key=key_id)])


def append_and_die(state: Path, store: str | None) -> None:
    """Append an entry, and be killed between its commit and the next statement."""
    with closing(Database(state, store=store)) as database:
        ledger = Ledger(database)
        for _ in range(3):
            ledger.append(ENTRY)
        with database.transaction():
            ledger.append_all([ENTRY, ENTRY])
        os.kill(os.getpid(), signal.SIGKILL)


def append_uncommitted_and_die(state: Path, store: str | None) -> None:
    """Append an entry, and be killed before its commit."""
    with closing(Database(state, store=store)) as database:
        ledger = Ledger(database)
        ledger.append(ENTRY)
        with database.transaction():
            ledger.append_all([ENTRY, ENTRY])
            os.kill(os.getpid(), signal.SIGKILL)


def assert_verified_after_failures(
    make: Callable[[Database], Ledger], state: Path, store: str | None
) -> None:
    """Check a promise of K: a transaction that failed leaves its chain where it was."""
    with closing(Database(state, store=store)) as database:
        ledger = make(database)
        ledger.append(ENTRY)
        for _ in range(2):
            with contextlib.suppress(ZeroDivisionError), database.transaction():
                ledger.append_all([ENTRY, ENTRY])
                raise ZeroDivisionError
            ledger.append(ENTRY)
        assert len([*ledger.entries()]) == 3
    assert chain_faults(state, store) == []
