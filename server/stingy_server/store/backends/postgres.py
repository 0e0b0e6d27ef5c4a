"""The state in a PostgreSQL that the servers of several hosts share.

The statements are those for SQLite, and only this module translates them. The next statement
outside of a transaction replaces a broken connection. The writes of a broken transaction are lost.

A connection may be shared by a pool such as PgBouncer, which gives each transaction another
session. So nothing is prepared, and no setting outlives its transaction: the first message of a
transaction opens it, sets its limits and takes its locks.
"""

import contextlib
import hashlib
import math
import re
import select
import threading
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import (
    DeadlockDetected,
    InsufficientPrivilege,
    LockNotAvailable,
    SerializationFailure,
)
from psycopg.pq import TransactionStatus

from stingy_server.store.base import Cursor, StoreBusy, StoreUnavailable
from stingy_server.store.pepper import check_pepper, pepper_digest

# A server that is silent for this long counts as gone. The address may set other limits.
CONNECT = {
    "application_name": "stingy",
    "connect_timeout": 2,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
ROLLBACK_S = 1.0
IDLE_TIMEOUT_S = 10  # then PostgreSQL ends a transaction whose client is silent
LOCK_FAILURES = (DeadlockDetected, LockNotAvailable, SerializationFailure)
TYPES = (
    ("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    ("INTEGER", "BIGINT"),
    ("REAL", "DOUBLE PRECISION"),
    ("BLOB", "BYTEA"),
    (") STRICT, WITHOUT ROWID", ")"),
    (") STRICT", ")"),
)


class _Connection(psycopg.Connection[Any]):
    """A connection that waits for no answer beyond its deadline."""

    deadline = math.inf  # of `time.monotonic`

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        if self.deadline < math.inf:
            options["timeout"] = max(0.0, self.deadline - time.monotonic())
        return super().wait(gen, *args, **options)


class Postgres:
    """A PostgreSQL database, with one connection for each thread that uses it.

    Args:
        address: as `postgresql://USER:PASSWORD@HOST/NAME`.
        lock_timeout_s: seconds that a statement outside of a transaction waits for a lock.
        deadline_s: seconds after which a transaction or a single statement has failed. Its
            connection is then closed.
    """

    append_only = """
CREATE FUNCTION ledger_only_grows() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE 'the ledger is append-only'; END $$;
CREATE TRIGGER ledger_keeps BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
FOR EACH STATEMENT EXECUTE FUNCTION ledger_only_grows();
"""
    # Both lock the table against other writers until the transaction ends.
    deletable = "ALTER TABLE ledger DISABLE TRIGGER ledger_keeps"
    append_only_anew = "ALTER TABLE ledger ENABLE TRIGGER ledger_keeps"

    def __init__(self, address: str, *, lock_timeout_s: float, deadline_s: float) -> None:
        self._address = address
        self._lock_timeout_s = lock_timeout_s
        self._deadline_s = deadline_s
        self._of_thread = threading.local()
        self._connections: list[_Connection] = []
        self._closed = False

    def close(self) -> None:
        self._closed = True
        for connection in self._connections:
            connection.close()

    def begin(self, locks: Iterable[str], wait_s: float) -> str:
        statement = (
            "BEGIN ISOLATION LEVEL READ COMMITTED;"
            f"SET LOCAL lock_timeout = '{max(1, round(1000 * wait_s))}ms';"
            f"SET LOCAL statement_timeout = '{round(1000 * self._deadline_s)}ms';"
            f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_TIMEOUT_S}s'"
        )
        # Sorted, because two transactions with different orders would wait for each other.
        if numbers := sorted({lock_number(name) for name in locks}):
            names = ",".join(map(str, numbers))
            statement += (  # the names are numbers here
                f";SELECT pg_advisory_xact_lock(n) FROM unnest(ARRAY[{names}]::BIGINT[]) AS n"  # noqa: S608
            )
        return statement

    def execute(self, statement: str, values: Any = ()) -> Cursor:
        connection: _Connection | None = None
        try:
            connection = self._connection()
            if connection.pgconn.transaction_status == TransactionStatus.IDLE:
                connection.deadline = time.monotonic() + self._deadline_s
                if not statement.startswith(("BEGIN", "SELECT")):
                    return self._execute_limited(connection, statement, values)
            done = _execute(connection, statement, values)
        except psycopg.Error as error:
            raise _failure(error, connection) from None
        # PostgreSQL answers the COMMIT of a failed transaction with a rollback and no error.
        if statement == "COMMIT" and done.statusmessage != "COMMIT":
            raise StoreUnavailable("the store failed: nothing was committed")
        return done

    def run(self, script: str) -> None:
        self.execute(to_postgres(script))

    def is_new(self) -> bool:
        # Not by `to_regclass`: its session would miss a table made while it waits for a lock.
        found = self.execute(
            "SELECT COUNT(*) FROM pg_catalog.pg_tables "
            "WHERE tablename = 'stingy' AND schemaname = ANY (current_schemas(false))"
        )
        return bool(found.fetchone() == (0,))

    def version(self, pepper: bytes) -> int:
        if self.is_new():
            return 0
        version, digest = self.execute("SELECT version, pepper FROM stingy").fetchone()
        check_pepper(pepper, digest)
        return int(version)

    def set_version(self, version: int, pepper: bytes) -> None:
        self.run("CREATE TABLE IF NOT EXISTS stingy (version INTEGER NOT NULL, pepper BLOB)")
        self.execute("DELETE FROM stingy")
        self.execute("INSERT INTO stingy VALUES (?, ?)", (version, pepper_digest(pepper)))

    def rollback(self) -> None:
        connection: _Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None or connection.closed:
            return
        connection.deadline = time.monotonic() + ROLLBACK_S
        with contextlib.suppress(psycopg.Error):
            connection.execute("ROLLBACK")
        if connection.pgconn.transaction_status != TransactionStatus.IDLE:
            connection.close()

    def wait_for_locks(self, wait: bool) -> None:
        """Do nothing, because a call waits in any case, and no event loop makes it."""

    def _execute_limited(
        self, connection: _Connection, statement: str, values: Any
    ) -> psycopg.Cursor[Any]:
        """Execute a statement in a transaction of its own, which has the limits of `begin`."""
        try:
            connection.execute(self.begin((), self._lock_timeout_s).encode())
            done = _execute(connection, statement, values)
            connection.execute(b"COMMIT")
        except psycopg.Error:
            self.rollback()
            raise
        return done

    def _connection(self) -> _Connection:
        """Return the connection of this thread; open one if it has none or a broken one.

        Raises:
            psycopg.Error: no connection can be opened.
        """
        current: _Connection | None = getattr(self._of_thread, "connection", None)
        if current is not None and not current.closed and not _closed_by_server(current):
            return current
        if self._closed:
            raise psycopg.OperationalError
        if current is not None:
            current.close()
            self._connections.remove(current)
            self._of_thread.connection = None
        options: dict[str, Any] = {**CONNECT, **conninfo_to_dict(self._address)}
        made = _Connection.connect(autocommit=True, prepare_threshold=None, **options)
        self._of_thread.connection = made
        self._connections.append(made)
        return made


def _execute(connection: _Connection, statement: str, values: Any) -> psycopg.Cursor[Any]:
    if not values:
        return connection.execute(statement.encode())
    return connection.execute(translate(statement), values)


def _failure(error: psycopg.Error, connection: _Connection | None) -> StoreUnavailable:
    if isinstance(error, LOCK_FAILURES):
        return StoreBusy("the store is locked by another server")
    if isinstance(error, InsufficientPrivilege):
        return StoreUnavailable(
            "expected the owner of the tables as the user of PostgreSQL, got another user"
        )
    # An error of the client's side may leave an answer unread.
    unanswered = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    if unanswered and connection is not None:
        connection.close()
    down = unanswered or connection is None or connection.closed
    return StoreUnavailable(f"the store failed: {type(error).__name__}", down=down)


def _closed_by_server(connection: _Connection) -> bool:
    """Check for a closed connection: the server sends nothing else while no statement runs."""
    if connection.pgconn.transaction_status != TransactionStatus.IDLE:
        return False
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def to_postgres(script: str) -> str:
    """Replace the names of SQLite's types in a script."""
    for name, other in TYPES:
        script = script.replace(name, other)
    return script


@lru_cache(maxsize=256)
def translate(statement: str) -> bytes:
    """Convert the placeholders of a statement to psycopg's, and uncomment FOR UPDATE."""
    statement = statement.replace("/* FOR UPDATE */", "FOR UPDATE")
    return re.sub(r":(\w+)", r"%(\1)s", statement).replace("?", "%s").encode()


def lock_number(name: str) -> int:
    """Return the number of the advisory lock with a name."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"stingy").digest()
    return int.from_bytes(digest, signed=True)
