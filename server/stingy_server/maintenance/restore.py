"""Restore: a backup takes the place of the state, whole or not at all, while no server uses it."""

import contextlib
import fcntl
import hmac
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from stingy_server.maintenance.backup import (
    Manifest,
    broken_chains,
    open_backup,
    read_backup,
    write_pepper,
)
from stingy_server.maintenance.comparison import differences
from stingy_server.maintenance.reader import FileReader, is_damage, require_psycopg
from stingy_server.store.backends.sqlite_failures import BUSY, failure_code, store_failure
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import FILE, folder_failure
from stingy_server.store.pepper import PEPPER

# The bytes of its file that SQLite locks while it is open, of which nothing is ever written.
LOCKED_FROM, LOCKED_BYTES = 0x40000002, 510
IN_USE = "expected no process that uses the state, got one: stop the server, and end other commands"


@dataclass(frozen=True)
class Restored:
    """A restore that was made.

    Attributes:
        manifest: the manifest of the backup.
        returned: what came back, by `differences`; None if no earlier state could be read.
    """

    manifest: Manifest
    returned: list[str] | None


def restore(folder: Path, state: Path, store: str | None, *, replace: bool) -> Restored:
    """Put a backup in the place of the state.

    The database is replaced in one transaction, and another pepper after it. A server between the
    two finds another pepper than the database's and does not start.

    Args:
        folder: the backup.
        replace: whether there may be a state, which is then lost.

    Raises:
        StoreUnavailable: the backup is not whole, its ledger is broken, a process uses the state,
            or there is one and `replace` is false. The state is as it was then.
    """
    manifest = read_backup(folder)
    if broken := broken_chains(folder):
        raise StoreUnavailable(
            f"{folder}: expected a ledger that can be verified, got a broken one: {broken[0]}: "
            f"restore an earlier backup, or copy {FILE} and {PEPPER} into an empty state folder"
        )
    with closing(open_backup(folder, manifest)) as backup:
        pepper = (folder / PEPPER).read_bytes()
        present = _pepper_of(state)
        is_same = present is not None and hmac.compare_digest(present, pepper)
        if present is not None and not is_same and not replace:
            raise StoreUnavailable(
                f"expected the pepper of the backup in {state}, got another: --replace puts that "
                "of the backup in its place"
            )
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            if store is None:
                with _exclusive(state / FILE, replace=replace) as target:
                    returned = _compare_file(target, backup, replace=replace)
                    if present is None:
                        # Before the database, beside which no other pepper can be made then.
                        write_pepper(state, pepper)
                    backup.connection.backup(target)
                    if present is not None and not is_same:
                        write_pepper(state, pepper)
            else:
                require_psycopg()
                from stingy_server.maintenance.postgres_state import replace_state

                returned = replace_state(store, backup, pepper, replace=replace)
                if not is_same:
                    write_pepper(state, pepper)
        except OSError as error:
            raise folder_failure(state, error) from None
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot restore to {state}: {store_failure(error)}") from None
    return Restored(manifest, returned)


def _pepper_of(state: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return (state / PEPPER).read_bytes()
    return None


@contextlib.contextmanager
def _exclusive(file: Path, *, replace: bool) -> Iterator[sqlite3.Connection]:
    """Open a file, which may be new, so that no other process can open it.

    A file that SQLite cannot read is emptied, if it may be replaced.

    Raises:
        StoreUnavailable: another process has it open, or SQLite cannot read it and it may not be
            replaced.
    """
    file.touch(mode=0o600)
    try:
        try:
            target = _lock(file)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            if not replace:
                raise StoreUnavailable(
                    "expected an empty state folder, got a damaged state: --replace puts the "
                    "backup in its place"
                ) from None
            _empty(file)
            target = _lock(file)
        with closing(target):
            yield target
    except sqlite3.DatabaseError as error:
        if failure_code(error) in BUSY:
            raise StoreUnavailable(IN_USE) from None
        raise


def _lock(file: Path) -> sqlite3.Connection:
    """Lock a file until the returned connection closes. Its write-ahead log goes into it first.

    Raises:
        sqlite3.DatabaseError: SQLITE_BUSY, if another process has the file open.
    """
    target = sqlite3.connect(file, isolation_level=None, timeout=0)
    try:
        target.execute("PRAGMA locking_mode = EXCLUSIVE")
        (mode,) = target.execute("PRAGMA journal_mode = DELETE").fetchone()
        if mode != "delete":
            raise StoreUnavailable(IN_USE)
        target.execute("BEGIN EXCLUSIVE")
        target.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # fails if it is damaged
        target.execute("COMMIT")
    except BaseException:
        target.close()
        raise
    return target


def _empty(file: Path) -> None:
    """Empty a file that SQLite cannot read, unless a process has it open.

    Raises:
        StoreUnavailable: a process has it open.
    """
    with file.open("r+b") as damaged:
        try:
            fcntl.lockf(damaged, fcntl.LOCK_EX | fcntl.LOCK_NB, LOCKED_BYTES, LOCKED_FROM)
        except OSError:
            raise StoreUnavailable(IN_USE) from None
        damaged.truncate(0)
    for suffix in ("-wal", "-shm", "-journal"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _compare_file(
    target: sqlite3.Connection, backup: FileReader, *, replace: bool
) -> list[str] | None:
    """Return what a backup brings back into a locked file, None if there is no state in it.

    Raises:
        StoreUnavailable: there is a state, and it may not be replaced.
    """
    (tables,) = target.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    returned = None
    if tables:
        if not replace:
            raise StoreUnavailable(
                "expected an empty state folder, got a state: --replace puts the backup in its "
                "place"
            )
        with contextlib.suppress(StoreUnavailable):  # a damaged state cannot be compared
            returned = differences(FileReader(target), backup)
        with contextlib.suppress(sqlite3.Error):
            target.execute("ROLLBACK")  # of the reader
    return returned
