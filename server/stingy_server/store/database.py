"""The state: a file that the processes of one host share, or a PostgreSQL that several hosts share.

Every failure of the state is a `StoreUnavailable`. The caller must then refuse the request.
"""

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stingy_server.store.base import Cursor, Store, StoreUnavailable
from stingy_server.store.schema import FIRST_VERSION, MIGRATIONS, SCHEMA, VERSION

FILE = "stingy.sqlite3"
PEPPER = "pepper"
PEPPER_BYTES = range(16, 65)  # fewer can be guessed, and BLAKE2 takes no more


class Database:
    """The state, and the pepper under which its digests are made.

    A file may be used only by the thread that opened it. A store over a network (`remote`) may be
    used by any thread, but not by an event loop, because a call may wait.

    Args:
        state: the folder with the pepper, and with the file if there is no `store`.
        store: the address of a PostgreSQL, as `postgresql://USER:PASSWORD@HOST/NAME`.
        create: make the folder if it does not exist.
        lock_timeout_s: seconds that a write waits for another write.

    Raises:
        StoreUnavailable: from every method, if the store is missing, locked, full or broken.
    """

    def __init__(
        self,
        state: Path,
        *,
        store: str | None = None,
        create: bool = True,
        lock_timeout_s: float = 2.0,
    ) -> None:
        self._opened = (state, store)
        self.remote = store is not None
        if not create and not (state / (PEPPER if self.remote else FILE)).is_file():
            raise StoreUnavailable(f"expected a state folder at {state}, got none")
        try:
            state.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.pepper = _pepper(state / PEPPER)
            if len(self.pepper) not in PEPPER_BYTES:
                least, most = PEPPER_BYTES.start, PEPPER_BYTES.stop - 1
                raise StoreUnavailable(
                    f"expected a pepper of {least} to {most} bytes in {state}, "
                    f"got {len(self.pepper)}"
                )
            self._store: Store
            if store is None:
                self._store = _Sqlite(state / FILE, lock_timeout_s=lock_timeout_s)
            else:
                # Imported here because psycopg is an optional dependency.
                from stingy_server.store.postgres import Postgres

                self._store = Postgres(store, lock_timeout_s=lock_timeout_s)
        except ImportError:
            raise StoreUnavailable(
                "store: expected psycopg, got none: pip install 'stingy[postgres]'"
            ) from None
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(
                f"expected a writable state folder at {state}, got {type(error).__name__}"
            ) from None
        # Runs one statement, which is its own transaction outside of `transaction`.
        self.execute = self._store.execute
        try:
            self._prepare(state)
        except StoreUnavailable:
            self.close()
            raise

    def reopen(self) -> "Database":
        """Open the same state a second time, for another thread."""
        state, store = self._opened
        return Database(state, store=store, create=False)

    def close(self) -> None:
        self._store.close()

    @contextlib.contextmanager
    def transaction(self, *, locks: Iterable[str] = ()) -> Iterator[None]:
        """Commit all statements inside, or none.

        A file has one writer at a time. PostgreSQL has many writers, but no two of them lock the
        same name. Two kinds of rows need a lock. The first are rows that the transaction reads and
        then writes. The second are rows that other transactions may write in another order.

        Args:
            locks: names such as "key:1", or "keys" for a whole table.
        """
        self.execute(self._store.begin)
        try:
            self._store.lock(locks)
            yield
            self.execute("COMMIT")
        except BaseException:
            self._store.rollback()
            raise

    def _prepare(self, state: Path) -> None:
        with self.transaction(locks=("schema",)):
            version = self._store.version(self.pepper)
            if version not in (0, *range(FIRST_VERSION, VERSION + 1)):
                raise StoreUnavailable(
                    f"expected state of version {VERSION} in {state}, got {version}: "
                    "it was written by another release"
                )
            if version == 0:
                self._store.run(SCHEMA)
                self._store.run(self._store.append_only)
            for migration in MIGRATIONS[max(version, FIRST_VERSION) - FIRST_VERSION :]:
                self._store.run(migration)
            if version < VERSION:
                self._store.set_version(VERSION, self.pepper)


class _Sqlite:
    """A file that any number of processes of one host may share."""

    begin = "BEGIN IMMEDIATE"
    append_only = """
CREATE TRIGGER ledger_keeps BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_holds BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""

    def __init__(self, path: Path, *, lock_timeout_s: float) -> None:
        path.touch(mode=0o600)
        # Autocommit: outside of an open transaction each statement is its own transaction.
        self._connection = sqlite3.connect(path, timeout=lock_timeout_s, isolation_level=None)
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def execute(self, statement: str, values: Any = ()) -> Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the state failed: {type(error).__name__}") from None

    def run(self, script: str) -> None:
        # One statement at a time, because sqlite3's executescript would commit.
        statement = ""
        for line in script.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                self.execute(statement)
                statement = ""

    def version(self, pepper: bytes) -> int:
        (version,) = self.execute("PRAGMA user_version").fetchone()
        return int(version)

    def set_version(self, version: int, pepper: bytes) -> None:
        self.execute(f"PRAGMA user_version = {version}")

    def lock(self, names: Iterable[str]) -> None:
        """Do nothing, because a writer locks the whole file."""

    def rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # some failures roll back by themselves
            self._connection.execute("ROLLBACK")


def _pepper(path: Path) -> bytes:
    """Read the secret for the digests; create it at the first use."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        # A link appears whole or not at all, so two first starts agree on one pepper.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    return path.read_bytes()
