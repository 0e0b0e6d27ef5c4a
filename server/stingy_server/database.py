"""The one file of state, `stingy.sqlite3`, that any number of processes of a host may share.

Every failure of it is a `StoreUnavailable`, and whoever meets one must refuse.
"""

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "stingy.sqlite3"

# What each version of the schema adds to the one before.
SCHEMA_1 = """
CREATE TABLE keys (
    id      TEXT PRIMARY KEY,
    name    TEXT NOT NULL,
    tier    TEXT NOT NULL,
    rate    TEXT,
    digest  BLOB NOT NULL UNIQUE,
    created TEXT NOT NULL,
    expires TEXT,
    revoked TEXT
) STRICT;

-- One row for each key ("key:ID") and each model ("model:NAME"); NULL is no limit.
CREATE TABLE budgets (
    owner     TEXT PRIMARY KEY,
    total     INTEGER,
    used      INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0),
    day_total INTEGER,
    day       INTEGER NOT NULL DEFAULT 0,
    day_used  INTEGER NOT NULL DEFAULT 0 CHECK (day_used >= 0)
) STRICT;

CREATE TABLE ledger (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    time        TEXT NOT NULL,
    request     TEXT NOT NULL,
    key         TEXT NOT NULL,
    model       TEXT NOT NULL,
    version     TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    pixels      TEXT,
    images      INTEGER NOT NULL,
    answered    INTEGER NOT NULL,
    bits        REAL NOT NULL,
    status      INTEGER NOT NULL,
    event       TEXT NOT NULL,
    latency_us  INTEGER NOT NULL
) STRICT;

-- One row for each key that asked; see standings.py.
CREATE TABLE watch (
    key       TEXT PRIMARY KEY,
    updated   REAL NOT NULL,
    images    INTEGER NOT NULL,
    bits      REAL NOT NULL,
    novel     REAL NOT NULL,
    near      REAL NOT NULL,
    repeats   REAL NOT NULL,
    classes   TEXT NOT NULL,
    distances BLOB NOT NULL,
    coverage  REAL NOT NULL,
    normality REAL,
    burnt     REAL NOT NULL,
    score     REAL NOT NULL,
    step      TEXT NOT NULL,
    since     INTEGER NOT NULL
) STRICT;

CREATE TRIGGER ledger_keeps BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_holds BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


SCHEMA_2 = """
-- What is served beside the models of the settings, and what each process serves; see
-- deployments.py.
CREATE TABLE deployments (
    name     TEXT NOT NULL,
    version  TEXT NOT NULL,
    settings TEXT NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;

CREATE TABLE serving (
    process TEXT NOT NULL,
    name    TEXT NOT NULL,
    version TEXT NOT NULL,
    policy  TEXT NOT NULL,
    share   REAL,
    fault   TEXT,
    seen    REAL NOT NULL,
    PRIMARY KEY (process, name, version)
) STRICT;
"""

SCHEMAS = (SCHEMA_1, SCHEMA_2)


class StoreUnavailable(Exception):
    """The state cannot be read or written; whoever asks must refuse."""


class Database:
    """The state under one folder, and the pepper its digests are made under.

    Raises:
        StoreUnavailable: from every method, when the file is missing, locked, full or broken.
    """

    def __init__(self, state: Path, *, create: bool = True, lock_timeout_s: float = 2.0) -> None:
        if not create and not (state / FILE).is_file():
            raise StoreUnavailable(f"expected a state folder at {state}, got none")
        try:
            state.mkdir(parents=True, exist_ok=True, mode=0o700)
            (state / FILE).touch(mode=0o600)
            self.pepper = _pepper(state / "pepper")
            # Autocommit: each statement is a transaction of its own unless one is opened.
            self._connection = sqlite3.connect(
                state / FILE, timeout=lock_timeout_s, isolation_level=None
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(
                f"expected a writable state folder at {state}, got {type(error).__name__}"
            ) from None
        try:
            self.execute("PRAGMA journal_mode = WAL")
            self.execute("PRAGMA synchronous = NORMAL")
            self._prepare(state)
        except StoreUnavailable:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        """One statement; its own transaction outside of `transaction`."""
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the state failed: {type(error).__name__}") from None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside hold, or none; nobody else writes meanwhile."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # some failures have rolled back already
                self._connection.execute("ROLLBACK")
            raise

    def _prepare(self, state: Path) -> None:
        with self.transaction():
            (version,) = self.execute("PRAGMA user_version").fetchone()
            if version > len(SCHEMAS):
                raise StoreUnavailable(
                    f"expected state of version {len(SCHEMAS)} in {state}, got {version}: "
                    "it was written by a later release"
                )
            for schema in SCHEMAS[version:]:
                for statement in _statements(schema):
                    self.execute(statement)
            self.execute(f"PRAGMA user_version = {len(SCHEMAS)}")


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: sqlite3's own executescript would commit."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _pepper(path: Path) -> bytes:
    """The secret that digests are made under, created at the first use."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        # A link is made whole or not at all, so two first starts agree on one pepper.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    return path.read_bytes()
