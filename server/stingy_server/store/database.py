"""The state: a file that the processes of one host share, or a PostgreSQL that several hosts share.

Every failure of the state is a `StoreUnavailable`. The caller must then refuse the request.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from stingy_server.store.backends.health import StoreHealth
from stingy_server.store.backends.schema import FIRST_VERSION, MIGRATIONS, SCHEMA, VERSION
from stingy_server.store.backends.sqlite import Sqlite
from stingy_server.store.backends.sqlite_failures import store_failure
from stingy_server.store.base import OutcomeUnknown, Store, StoreUnavailable
from stingy_server.store.pepper import PEPPER, read_pepper, read_present_pepper

Result = TypeVar("Result")

FILE = "stingy.sqlite3"
GRACE_S = 1.0  # seconds that a call may take beside its wait for a lock


class Database:
    """The state, and the pepper under which its digests are made.

    Any thread may use it, and has a connection of its own. A store over a network (`remote`) is not
    for an event loop, because a call may wait. A call to it ends after `deadline_s` at most. An
    event loop calls a file through `try_now`.

    Args:
        state: the folder with the pepper, and with the file if there is no `store`.
        store: the address of a PostgreSQL, as `postgresql://USER:PASSWORD@HOST/NAME`.
        create: make the folder if it does not exist.
        read_only: open it to look, and change nothing, not even its version.
        lock_timeout_s: seconds that a write waits for another write.

    Attributes:
        pepper: the secret of the digests.
        remote: whether the store is reached over a network.
        deadline_s: seconds after which a call that was not answered has failed.
        health: whether the store answers.
        version: the version of the schema, as it is now.

    Raises:
        StoreUnavailable: from every method, if the store is missing, locked, full or broken.
    """

    def __init__(
        self,
        state: Path,
        *,
        store: str | None = None,
        create: bool = True,
        read_only: bool = False,
        lock_timeout_s: float = 2.0,
    ) -> None:
        self._opened = (state, store, lock_timeout_s)
        self._lock_timeout_s = lock_timeout_s
        self.deadline_s = lock_timeout_s + GRACE_S
        self.remote = store is not None
        try:
            if not create and not (state / (PEPPER if self.remote else FILE)).is_file():
                raise StoreUnavailable(f"expected a state folder at {state}, got none")
            if not read_only:
                state.mkdir(parents=True, exist_ok=True, mode=0o700)
            present = read_present_pepper(state)
            self._store = self._open_store(read_only=read_only)
        except OSError as error:
            raise folder_failure(state, error) from None
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{state}: {store_failure(error)}") from None
        try:
            # Beside a store that was used, a new pepper would be another one.
            is_new = present is None and not read_only and self._store.is_new()
            self.pepper = present or read_pepper(state, create=is_new)
        except OSError as error:
            self._store.close()
            raise pepper_failure(state, error) from None
        except StoreUnavailable:
            self._store.close()
            raise
        # Runs one statement, which is its own transaction outside of `transaction`.
        self.execute = self._store.execute
        self.health = StoreHealth(self._probe)
        try:
            self.version = self._check_version(state) if read_only else self._prepare(state)
        except StoreUnavailable:
            self.close()
            raise

    def _open_store(self, *, read_only: bool) -> Store:
        state, store, lock_timeout_s = self._opened
        if store is None:
            return Sqlite(state / FILE, lock_timeout_s=lock_timeout_s, read_only=read_only)
        try:
            # Imported here because psycopg is an optional dependency.
            from stingy_server.store.backends.postgres import Postgres
        except ImportError:
            raise StoreUnavailable(
                "store: expected psycopg, got none: pip install 'stingy[postgres]'"
            ) from None
        return Postgres(store, lock_timeout_s=lock_timeout_s, deadline_s=self.deadline_s)

    def reopen(self) -> "Database":
        """Open the same state a second time."""
        state, store, lock_timeout_s = self._opened
        return Database(state, store=store, create=False, lock_timeout_s=lock_timeout_s)

    def close(self) -> None:
        self.health.close()
        self._store.close()

    def try_now(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call that waits for no lock of a file.

        Raises:
            StoreBusy: another process has the lock. Nothing was written, if the call writes in
                one transaction.
        """
        self._store.wait_for_locks(False)
        try:
            return call()
        finally:
            self._store.wait_for_locks(True)

    @contextlib.contextmanager
    def transaction(
        self, *, locks: Iterable[str] = (), wait_s: float | None = None
    ) -> Iterator[None]:
        """Commit all statements inside, or none.

        A file has one writer at a time. PostgreSQL has many writers, but no two of them lock the
        same name. Two kinds of rows need a lock. The first are rows that the transaction reads and
        then writes. The second are rows that other transactions may write in another order.

        Args:
            locks: names such as "key:1", or "keys" for a whole table.
            wait_s: seconds that it waits for each lock of PostgreSQL; None for `lock_timeout_s`.

        Raises:
            StoreBusy: another transaction has a lock for too long.
            OutcomeUnknown: the commit failed.
        """
        try:
            self.execute(self._store.begin(locks, wait_s or self._lock_timeout_s))
            yield
        except BaseException:
            self._store.rollback()
            raise
        try:
            self.execute("COMMIT")
        except StoreUnavailable as error:
            self._store.rollback()
            raise OutcomeUnknown(str(error), down=error.down) from None

    @contextlib.contextmanager
    def deletable_ledger(self) -> Iterator[None]:
        """Permit deletions from the ledger inside the open transaction, until the block ends.

        Raises:
            StoreUnavailable: the user of a PostgreSQL does not own the ledger.
        """
        self._store.run(self._store.deletable)
        yield
        self._store.run(self._store.append_only_anew)

    def _probe(self) -> None:
        with self.transaction():
            pass

    def _check_version(self, state: Path) -> int:
        version = self._store.version(self.pepper)
        if version not in (0, *range(FIRST_VERSION, VERSION + 1)):
            raise StoreUnavailable(
                f"expected state of version {VERSION} in {state}, got {version}: "
                "it was written by another release"
            )
        return version

    def _prepare(self, state: Path) -> int:
        if self._check_version(state) == VERSION:
            return VERSION  # without a lock, for which another process may have to be awaited
        with self.transaction(locks=("schema",)):
            version = self._check_version(state)
            if version == 0:
                self._store.run(SCHEMA)
                self._store.run(self._store.append_only)
            for migration in MIGRATIONS[max(version, FIRST_VERSION) - FIRST_VERSION :]:
                self._store.run(migration)
            if version < VERSION:
                self._store.set_version(VERSION, self.pepper)
        return VERSION


def open_to_read(state: Path, store: str | None) -> Database:
    """Open a state of this release to read it. Nothing in it is changed or upgraded.

    Raises:
        StoreUnavailable: there is none, it cannot be read, or another release wrote it.
    """
    database = Database(state, store=store, create=False, read_only=True)
    if database.version == VERSION:
        return database
    database.close()
    if database.version == 0:
        raise StoreUnavailable(
            f"expected a state in {state}, got an empty one: create a key, or start a server"
        )
    raise StoreUnavailable(
        f"expected state of version {VERSION} in {state}, got {database.version}: start a server "
        "of this release on it, which upgrades it, and before that: stingy state backup"
    )


def folder_failure(state: Path, error: OSError) -> StoreUnavailable:
    """Return why a state folder cannot be used."""
    if isinstance(error, PermissionError):
        return StoreUnavailable(
            f"expected a state folder at {state} that this user can read and write, got another: "
            "run the command as the user of the server"
        )
    return StoreUnavailable(
        f"expected a writable state folder at {state}, got: {error.strerror or error}"
    )


def pepper_failure(state: Path, error: OSError) -> StoreUnavailable:
    """Return why the pepper of a state cannot be read."""
    if not isinstance(error, FileNotFoundError):
        return folder_failure(state, error)
    return StoreUnavailable(
        f"expected the file {PEPPER} in {state}, got none: copy it from a backup, or from another "
        "server of this store, because without it no key is recognised"
    )
