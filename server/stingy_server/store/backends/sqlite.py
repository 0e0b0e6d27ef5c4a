"""The state in a file that any number of processes of one host may share."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stingy_server.store.backends.sqlite_failures import store_failure
from stingy_server.store.base import Cursor, StoreUnavailable
from stingy_server.store.pepper import check_pepper, pepper_digest

FIRST_WITH_PEPPER = 4  # the first version whose table `stingy` has the digest of the pepper

NO_UPDATES = """
CREATE TRIGGER ledger_keeps BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""
NO_DELETES = """
CREATE TRIGGER ledger_holds BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


class Sqlite:
    """A file with one connection for each thread, and a second one for a thread that never waits.

    Raises:
        sqlite3.Error: the file cannot be opened.
        StoreUnavailable: the file system cannot share the file between processes.
    """

    append_only = NO_UPDATES + NO_DELETES
    deletable = "DROP TRIGGER ledger_holds;"
    append_only_anew = NO_DELETES

    def __init__(self, path: Path, *, lock_timeout_s: float, read_only: bool = False) -> None:
        if not read_only:
            path.touch(mode=0o600)
        self._path: Path | str = path
        if read_only:
            self._path = f"{path.absolute().as_uri()}?mode=ro"
        self._read_only = read_only
        self._lock_timeout_s = lock_timeout_s
        self._of_thread = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False
        try:
            self._of_thread.current = self._of_thread.waiting = self._connect()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._closed = True
        for connection in self._connections:
            connection.close()

    def begin(self, locks: Iterable[str], wait_s: float) -> str:
        return "BEGIN IMMEDIATE"  # a writer locks the whole file

    def execute(self, statement: str, values: Any = ()) -> Cursor:
        try:
            connection: sqlite3.Connection = self._of_thread.current
        except AttributeError:  # the first call of this thread
            connection = self._open_for_thread()
        try:
            return connection.execute(statement, values)
        except sqlite3.Error as error:
            raise store_failure(error) from None

    def run(self, script: str) -> None:
        # One statement at a time, because sqlite3's executescript would commit.
        statement = ""
        for line in script.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                self.execute(statement)
                statement = ""

    def is_new(self) -> bool:
        (version,) = self.execute("PRAGMA user_version").fetchone()
        return bool(version == 0)

    def version(self, pepper: bytes) -> int:
        (version,) = self.execute("PRAGMA user_version").fetchone()
        if version >= FIRST_WITH_PEPPER:
            (digest,) = self.execute("SELECT pepper FROM stingy").fetchone()
            check_pepper(pepper, digest)
        return int(version)

    def set_version(self, version: int, pepper: bytes) -> None:
        self.execute(f"PRAGMA user_version = {version}")
        self.run(
            "CREATE TABLE IF NOT EXISTS stingy (version INTEGER NOT NULL, pepper BLOB) STRICT;\n"
            "DELETE FROM stingy;\n"
        )
        self.execute("INSERT INTO stingy VALUES (?, ?)", (version, pepper_digest(pepper)))

    def rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # some failures roll back by themselves
            self._of_thread.current.execute("ROLLBACK")

    def wait_for_locks(self, wait: bool) -> None:
        threads = self._of_thread
        try:
            threads.current = threads.waiting if wait else threads.eager
        except AttributeError:  # the first call of this thread
            self._open_for_thread()
            threads.eager = self._open()
            threads.eager.execute("PRAGMA busy_timeout = 0")
            threads.current = threads.waiting if wait else threads.eager

    def _open_for_thread(self) -> sqlite3.Connection:
        if not hasattr(self._of_thread, "waiting"):
            self._of_thread.current = self._of_thread.waiting = self._open()
        current: sqlite3.Connection = self._of_thread.current
        return current

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.Error as error:
            raise store_failure(error) from None

    def _connect(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreUnavailable("the state is closed")
        # Autocommit: outside of an open transaction each statement is its own transaction.
        # Each connection is used by one thread, but `close` may be called by another one.
        connection = sqlite3.connect(
            self._path,
            timeout=self._lock_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            uri=self._read_only,
        )
        self._connections.append(connection)
        if self._read_only:
            return connection
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreUnavailable(
                "expected a state folder on a local disk, where SQLite can keep a write-ahead "
                f"log, got journal mode {mode!r}: move the folder there, or set `store`"
            )
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection
