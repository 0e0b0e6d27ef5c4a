"""A state that is read as it is: nothing in it is migrated, written, or locked against writers."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from stingy_server.store.backends.schema import FIRST_VERSION, MIGRATIONS, SCHEMA
from stingy_server.store.backends.sqlite import FIRST_WITH_PEPPER, Sqlite
from stingy_server.store.backends.sqlite_failures import DAMAGED, failure_code, store_failure
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import folder_failure

Row = tuple[Any, ...]
CHAINED_FROM = 4  # the first version whose ledger has chains
WAIT_S = 2.0


class Reader(Protocol):
    """One moment of a state. Statements are those of SQLite.

    Attributes:
        kind: "sqlite" or "postgresql".
        version: the version of the schema.
        pepper_digest: the digest of the pepper; None in a file of release 0.1.0.

    Raises:
        StoreUnavailable: from every method, if the state cannot be read.
    """

    kind: str
    version: int
    pepper_digest: bytes | None

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        """Yield the rows of a query, a few at a time."""

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a small table, each by its columns. Return none without the table."""

    def columns(self) -> dict[str, set[str]]:
        """Return the columns of each table."""

    def damage(self) -> list[str]:
        """Return the faults of pages and indexes, as far as the store can check its own."""

    def trigger_faults(self) -> list[str]:
        """Return how the triggers that keep the ledger append-only differ from ours."""

    def copy_to(self, file: Path) -> None:
        """Write the state to an empty file of SQLite."""

    def close(self) -> None: ...


class FileReader:
    """A state in a file of SQLite, or a backup of any state.

    Args:
        connection: a connection to it that is in no transaction.
    """

    kind = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        try:
            connection.execute("BEGIN")
            (self.version,) = connection.execute("PRAGMA user_version").fetchone()
            self.pepper_digest: bytes | None = None
            if self.version >= FIRST_WITH_PEPPER:
                (self.pepper_digest,) = connection.execute("SELECT pepper FROM stingy").fetchone()
        except (sqlite3.Error, TypeError) as error:
            raise store_failure(error) from None

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        try:
            yield from self.connection.execute(statement, values)
        except sqlite3.Error as error:
            raise store_failure(error) from None

    def table(self, name: str) -> list[dict[str, Any]]:
        if name not in self.columns():
            return []
        try:
            found = self.connection.execute(f"SELECT * FROM {name}")  # noqa: S608  a name of ours
            names = [column for column, *_ in found.description]
            return [dict(zip(names, row, strict=True)) for row in found]
        except sqlite3.Error as error:
            raise store_failure(error) from None

    def columns(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for table, column in self.rows(
            "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c "
            "WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'"
        ):
            found.setdefault(table, set()).add(column)
        return found

    def damage(self) -> list[str]:
        try:
            found = self.connection.execute("PRAGMA integrity_check(10)").fetchall()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise store_failure(error) from None
            return [str(error)]
        return [line for (line,) in found if line != "ok"]

    def trigger_faults(self) -> list[str]:
        with closing(new_file(":memory:", self.version)) as reference:
            expected = _triggers(reference)
        found = _triggers(self.connection)
        return [
            f"expected the trigger {name} of this release, which keeps the ledger append-only, "
            f"got {'another' if name in found else 'none'}"
            for name in expected
            if found.get(name) != expected[name]
        ] + [f"expected no other triggers, got {name}" for name in found.keys() - expected.keys()]

    def copy_to(self, file: Path) -> None:
        try:
            with closing(sqlite3.connect(file, isolation_level=None)) as copy:
                self.connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        except sqlite3.Error as error:
            raise store_failure(error) from None

    def close(self) -> None:
        self.connection.close()


def require_psycopg() -> None:
    """Check that the package for PostgreSQL is installed.

    Raises:
        StoreUnavailable: it is not.
    """
    if find_spec("psycopg") is None:
        raise StoreUnavailable("store: expected psycopg, got none: pip install 'stingy[postgres]'")


def open_file(file: Path, *, mode: str = "rw") -> FileReader:
    """Open a file of SQLite.

    Args:
        mode: "ro" for a file that nobody writes, such as a backup.

    Raises:
        StoreUnavailable: there is none, or it cannot be read.
    """
    try:
        if not file.is_file():
            raise StoreUnavailable(f"expected the file {file.name} in {file.parent}, got none")
    except OSError as error:
        raise folder_failure(file.parent, error) from None
    try:
        connection = sqlite3.connect(
            f"{file.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            timeout=WAIT_S,
        )
    except sqlite3.Error as error:
        raise store_failure(error) from None
    try:
        return FileReader(connection)
    except BaseException:
        connection.close()
        raise


def new_file(file: Path | str, version: int) -> sqlite3.Connection:
    """Make the tables of a version of the schema in an empty file, without any row."""
    connection = sqlite3.connect(file, isolation_level=None)
    scripts = (SCHEMA, *MIGRATIONS[: version - FIRST_VERSION], Sqlite.append_only)
    connection.executescript("".join(scripts))
    connection.execute(f"PRAGMA user_version = {version}")
    return connection


def file_tables(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Return the columns of each table in a file, in their order, without those of its version."""
    found: dict[str, list[str]] = {}
    for table, column in connection.execute(
        "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c "
        "WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name != 'stingy' "
        "ORDER BY m.name, c.cid"
    ):
        found.setdefault(table, []).append(column)
    return found


def _triggers(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the text of each trigger, with single spaces."""
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    return {name: " ".join(sql.split()) for name, sql in found}


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether SQLite cannot read a file because of its content."""
    return failure_code(error) in DAMAGED
