"""The failures of SQLite, as sentences that say what was expected and what to do."""

import sqlite3

from stingy_server.store.base import StoreBusy, StoreUnavailable

BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
FORBIDDEN = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


def failure_code(error: Exception) -> int:
    """Return SQLite's primary code of an error; 0 if it has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF  # the rest of the number says why


def store_failure(error: Exception) -> StoreUnavailable:
    """Return an error of SQLite as an error of the state, without a path or a value in it."""
    code = failure_code(error)
    if code in BUSY:
        return StoreBusy(
            "the state is locked by another process: try once more, or end the command that "
            "has locked it"
        )
    if code in DAMAGED:
        return StoreUnavailable(
            "expected a state, got a damaged file or one of another program: restore a backup "
            "with `stingy state restore`, or name another folder with --state"
        )
    if code in FORBIDDEN:
        return StoreUnavailable(
            "expected a state folder and files that this user can write, got others: run the "
            "command as the user of the server"
        )
    if code == sqlite3.SQLITE_FULL:
        return StoreUnavailable("expected room on the disk, got a full one")
    if code == sqlite3.SQLITE_IOERR:
        return StoreUnavailable(
            "expected a disk on which this user can read, lock and write the state, got an I/O "
            "error: see the disk and the permissions of the files"
        )
    if code == sqlite3.SQLITE_ERROR:
        return StoreUnavailable(
            "expected the tables and columns of this release, got others: `stingy state check` "
            "lists what differs; restore a backup with `stingy state restore`"
        )
    return StoreUnavailable(f"the state failed: {type(error).__name__}")
