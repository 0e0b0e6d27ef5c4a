"""The state in a PostgreSQL: one moment of it is read, or all of it is replaced by a backup."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from stingy_server.maintenance.comparison import differences
from stingy_server.maintenance.reader import WAIT_S, FileReader, Row, file_tables, new_file
from stingy_server.store.backends.postgres import (
    CONNECT,
    Postgres,
    lock_number,
    to_postgres,
    translate,
)
from stingy_server.store.backends.schema import FIRST_VERSION, MIGRATIONS, SCHEMA, VERSION
from stingy_server.store.backends.sqlite import FIRST_WITH_PEPPER
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.deployments import ALIVE_S
from stingy_server.store.pepper import pepper_digest

TRIGGER = re.compile(
    r"CREATE TRIGGER ledger_keeps BEFORE DELETE OR UPDATE OR TRUNCATE ON (\w+\.)?ledger "
    r"FOR EACH STATEMENT EXECUTE FUNCTION (\w+\.)?ledger_only_grows\(\)"
)
SESSIONS = """
SELECT COUNT(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid != pg_backend_pid() AND application_name = 'stingy'
AND (state != 'idle' OR state_change > now() - make_interval(secs => %s))
"""


class PostgresReader:
    """One moment of the state in a PostgreSQL: a transaction that reads one snapshot.

    Args:
        connection: a connection, to read what its transaction sees.
    """

    kind = "postgresql"

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._numbers = 0
        self._connection = connection
        if self._fetch("SELECT to_regclass('stingy') IS NOT NULL") == [(False,)]:
            raise StoreUnavailable("expected state in the store, got none")
        ((self.version, digest),) = self._fetch("SELECT version, pepper FROM stingy")
        self.pepper_digest: bytes | None = digest

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        self._numbers += 1
        try:
            # A cursor of the server sends the rows a few at a time.
            with self._connection.cursor(name=f"rows_{self._numbers}") as cursor:
                if values:
                    cursor.execute(translate(statement), values)
                else:
                    cursor.execute(statement.encode())
                yield from cursor
        except psycopg.Error as error:
            raise _failure(error) from None

    def table(self, name: str) -> list[dict[str, Any]]:
        names = self.columns().get(name)
        if names is None:
            return []
        ordered = sorted(names)
        rows = self.rows(f"SELECT {', '.join(ordered)} FROM {name}")  # noqa: S608  names of ours
        return [dict(zip(ordered, row, strict=True)) for row in rows]

    def columns(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for table, column in self.rows(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = current_schema()"
        ):
            found.setdefault(table, set()).add(column)
        return found

    def damage(self) -> list[str]:
        """Return no fault: `pg_amcheck` checks the pages of a PostgreSQL."""
        return []

    def trigger_faults(self) -> list[str]:
        found = self._fetch(
            "SELECT tgname, tgenabled::text, pg_get_triggerdef(t.oid), prosrc FROM pg_trigger AS t "
            "JOIN pg_proc AS p ON p.oid = tgfoid "
            "WHERE tgrelid = 'ledger'::regclass AND NOT tgisinternal"
        )
        others = [name for name, *_ in found if name != "ledger_keeps"]
        faults = [f"expected no other triggers, got {name}" for name in others]
        kept = [
            TRIGGER.fullmatch(" ".join(written.split())) is not None
            and " ".join(source.split()) == "BEGIN RAISE 'the ledger is append-only'; END"
            and enabled in ("O", "A")
            for name, enabled, written, source in found
            if name == "ledger_keeps"
        ]
        if kept != [True]:
            faults.append(
                "expected the trigger ledger_keeps of this release, which keeps the ledger "
                f"append-only, got {'another, or a disabled one' if kept else 'none'}"
            )
        return faults

    def copy_to(self, file: Path) -> None:
        with closing(new_file(file, self.version)) as copy:
            copy.execute("BEGIN")
            for table, columns in file_tables(copy).items():
                names = ", ".join(columns)
                places = ", ".join("?" * len(columns))
                copy.execute(f"DELETE FROM {table}")  # noqa: S608  rows that a migration made
                copy.executemany(
                    f"INSERT INTO {table} ({names}) VALUES ({places})",  # noqa: S608
                    self.rows(f"SELECT {names} FROM {table}"),  # noqa: S608
                )
            if self.version >= FIRST_WITH_PEPPER:
                copy.execute("CREATE TABLE stingy (version INTEGER NOT NULL, pepper BLOB) STRICT")
                copy.execute("INSERT INTO stingy VALUES (?, ?)", (self.version, self.pepper_digest))
            copy.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    def _fetch(self, statement: str) -> list[Row]:
        try:
            return self._connection.execute(statement.encode()).fetchall()
        except psycopg.Error as error:
            raise _failure(error) from None


def open_postgres(address: str) -> PostgresReader:
    """Open the state in a PostgreSQL, in a transaction that reads one snapshot.

    Args:
        address: as `postgresql://USER:PASSWORD@HOST/NAME`.

    Raises:
        StoreUnavailable: there is none, or it cannot be read.
    """
    try:
        connection = _connect(address)
    except psycopg.Error as error:
        raise _failure(error) from None
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    try:
        return PostgresReader(connection)
    except BaseException:
        connection.close()
        raise


def replace_state(
    address: str, backup: FileReader, pepper: bytes, *, replace: bool
) -> list[str] | None:
    """Put a backup in the place of the state in a PostgreSQL, in one transaction.

    Returns:
        What comes back, by `differences`. None if there was no state before.

    Raises:
        StoreUnavailable: there is a state and `replace` is false, a server uses it, or the store
            fails. Nothing was changed then.
    """
    try:
        with _connect(address, application_name="stingy restore") as connection:
            connection.execute(f"SET LOCAL lock_timeout = '{WAIT_S:g}s'".encode())
            # A server that starts now waits for this lock, and then sees the restored state.
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock_number("schema"),))
            returned = None
            if present := _lock_tables(connection):
                if not replace:
                    raise StoreUnavailable(
                        "expected an empty store, got a state: --replace puts the backup in its "
                        "place"
                    )
                _refuse_in_use(connection, present)
                if "stingy" in present:
                    returned = differences(PostgresReader(connection), backup)
            _replace_tables(connection, present, backup, pepper)
            return returned
    except psycopg.Error as error:
        raise _failure(error) from None


def _lock_tables(connection: psycopg.Connection[Any]) -> list[str]:
    """Lock the tables of a state against everybody. Return their names, none without a state."""
    with closing(new_file(":memory:", VERSION)) as reference:
        names = ["stingy", *file_tables(reference)]
    present = [
        name
        for name in names
        if connection.execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone() == (True,)
    ]
    if present:
        connection.execute(f"LOCK TABLE {', '.join(present)} IN ACCESS EXCLUSIVE MODE".encode())
    return present


def _refuse_in_use(connection: psycopg.Connection[Any], present: Sequence[str]) -> None:
    """Check that no server uses the store, by its sessions and by the reports of servers.

    Raises:
        StoreUnavailable: a server used it within the last minute.
    """
    (sessions,) = connection.execute(SESSIONS, (ALIVE_S,)).fetchone() or (0,)
    reports = 0
    if "serving" in present:
        since = time.time() - ALIVE_S
        found = connection.execute("SELECT COUNT(*) FROM serving WHERE seen >= %s", (since,))
        (reports,) = found.fetchone() or (0,)
    if sessions or reports:
        raise StoreUnavailable(
            "expected no server on this store, got one that used it within the last minute: stop "
            "it; after a server that was killed, wait for a minute"
        )


def _replace_tables(
    connection: psycopg.Connection[Any],
    present: Sequence[str],
    backup: FileReader,
    pepper: bytes,
) -> None:
    """Drop these tables, make those of the backup, and copy all its rows."""
    for name in present:
        connection.execute(f"DROP TABLE {name}".encode())
    connection.execute("DROP FUNCTION IF EXISTS ledger_only_grows")
    scripts = (SCHEMA, *MIGRATIONS[: backup.version - FIRST_VERSION])
    connection.execute(to_postgres("".join(scripts)).encode())
    for name, columns in file_tables(backup.connection).items():
        ordered = ", ".join(columns)
        # The migrations have made rows.
        connection.execute(f"DELETE FROM {name}".encode())  # noqa: S608  a name of ours
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY {name} ({ordered}) FROM STDIN".encode()) as copy,
        ):
            for row in backup.rows(f"SELECT {ordered} FROM {name}"):  # noqa: S608
                copy.write_row(row)
    ((latest,),) = backup.rows("SELECT COALESCE(MAX(seq), 0) FROM ledger")
    connection.execute(f"ALTER TABLE ledger ALTER seq RESTART WITH {int(latest) + 1}".encode())
    connection.execute(Postgres.append_only.encode())
    connection.execute("CREATE TABLE stingy (version BIGINT NOT NULL, pepper BYTEA)")
    connection.execute(
        "INSERT INTO stingy VALUES (%s, %s)", (backup.version, pepper_digest(pepper))
    )


def _connect(address: str, **options: str) -> psycopg.Connection[Any]:
    """Open a connection whose transactions have no time limit."""
    given: dict[str, Any] = {**CONNECT, **options, **conninfo_to_dict(address)}
    return psycopg.connect(prepare_threshold=None, **given)


def _failure(error: psycopg.Error) -> StoreUnavailable:
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return StoreUnavailable("expected no server on this store, got one that has locks: stop it")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return StoreUnavailable(
            "expected the owner of the tables as the user of PostgreSQL, got another user"
        )
    return StoreUnavailable(f"the store failed: {type(error).__name__}")
