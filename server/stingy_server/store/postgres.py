"""The state in a PostgreSQL that the servers of several hosts share.

The statements are those for SQLite, and only this module translates them. The next statement
outside of a transaction replaces a broken connection. The writes of a broken transaction are lost.
"""

import contextlib
import hashlib
import hmac
import re
import select
import threading
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from stingy_server.store.base import Cursor, StoreUnavailable

# A server that is silent for this long counts as gone. The address may set other limits.
CONNECT = {
    "application_name": "stingy",
    "connect_timeout": 2,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# The server ends a statement that takes longer, and a transaction that idles longer.
STATEMENT_TIMEOUT_S = 10.0
TYPES = (
    ("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    ("INTEGER", "BIGINT"),
    ("REAL", "DOUBLE PRECISION"),
    ("BLOB", "BYTEA"),
    (") STRICT", ")"),
)


class Postgres:
    """A PostgreSQL database, with one connection for each thread that uses it."""

    begin = "BEGIN"
    append_only = """
CREATE FUNCTION ledger_only_grows() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE 'the ledger is append-only'; END $$;
CREATE TRIGGER ledger_keeps BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
FOR EACH STATEMENT EXECUTE FUNCTION ledger_only_grows();
"""

    def __init__(self, address: str, *, lock_timeout_s: float) -> None:
        self._address = address
        self._session = (
            "SET default_transaction_isolation = 'read committed';"
            f"SET lock_timeout = '{lock_timeout_s}s';"
            f"SET statement_timeout = '{max(STATEMENT_TIMEOUT_S, lock_timeout_s)}s';"
            f"SET idle_in_transaction_session_timeout = '{STATEMENT_TIMEOUT_S}s'"
        )
        self._of_thread = threading.local()
        self._connections: list[psycopg.Connection[Any]] = []
        self._closed = False

    def close(self) -> None:
        self._closed = True
        for connection in self._connections:
            connection.close()

    def execute(self, statement: str, values: Any = ()) -> Cursor:
        try:
            connection = self._connection()
            if not values:
                done = connection.execute(statement.encode())
            else:
                done = connection.execute(translate(statement), values)
        except psycopg.Error as error:
            raise StoreUnavailable(f"the store failed: {type(error).__name__}") from None
        # PostgreSQL answers the COMMIT of a failed transaction with a rollback and no error.
        if statement == "COMMIT" and done.statusmessage != "COMMIT":
            raise StoreUnavailable("the store failed: nothing was committed")
        return done

    def run(self, script: str) -> None:
        for name, other in TYPES:
            script = script.replace(name, other)
        self.execute(script)

    def version(self, pepper: bytes) -> int:
        if self.execute("SELECT to_regclass('stingy')").fetchone() == (None,):
            return 0
        version, digest = self.execute("SELECT version, pepper FROM stingy").fetchone()
        if not hmac.compare_digest(digest, _pepper_digest(pepper)):
            raise StoreUnavailable(
                "expected the pepper that the store was first used with, got another: "
                "copy the file from the state folder of another server of this store"
            )
        return int(version)

    def set_version(self, version: int, pepper: bytes) -> None:
        self.run("CREATE TABLE IF NOT EXISTS stingy (version INTEGER NOT NULL, pepper BLOB)")
        self.execute("DELETE FROM stingy")
        self.execute("INSERT INTO stingy VALUES (?, ?)", (version, _pepper_digest(pepper)))

    def lock(self, names: Iterable[str]) -> None:
        # Sorted, because two transactions with different orders would wait for each other.
        if numbers := sorted({_number(name) for name in names}):
            self.execute(
                "SELECT pg_advisory_xact_lock(n) FROM unnest(CAST(? AS BIGINT[])) AS n", (numbers,)
            )

    def rollback(self) -> None:
        connection: psycopg.Connection[Any] = self._of_thread.connection
        with contextlib.suppress(psycopg.Error):
            connection.execute("ROLLBACK")
        if connection.info.transaction_status != TransactionStatus.IDLE:
            connection.close()

    def _connection(self) -> psycopg.Connection[Any]:
        """Return the connection of this thread; open one if it has none or a broken one.

        Raises:
            psycopg.Error: no connection can be opened.
        """
        current: psycopg.Connection[Any] | None = getattr(self._of_thread, "connection", None)
        if current is not None and not current.closed and not _closed_by_server(current):
            return current
        if self._closed:
            raise psycopg.OperationalError
        if current is not None:
            current.close()
            self._connections.remove(current)
            self._of_thread.connection = None
        options: dict[str, Any] = {**CONNECT, **conninfo_to_dict(self._address)}
        made: psycopg.Connection[Any] = psycopg.connect(autocommit=True, **options)
        try:
            made.execute(self._session.encode())
        except psycopg.Error:
            made.close()
            raise
        self._of_thread.connection = made
        self._connections.append(made)
        return made


def _closed_by_server(connection: psycopg.Connection[Any]) -> bool:
    """Check for a closed connection: the server sends nothing else while no statement runs."""
    if connection.info.transaction_status != TransactionStatus.IDLE:
        return False
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


@lru_cache(maxsize=256)
def translate(statement: str) -> bytes:
    """Convert the placeholders of a statement to psycopg's, and uncomment FOR UPDATE."""
    statement = statement.replace("/* FOR UPDATE */", "FOR UPDATE")
    return re.sub(r":(\w+)", r"%(\1)s", statement).replace("?", "%s").encode()


def _number(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"stingy").digest()
    return int.from_bytes(digest, signed=True)


def _pepper_digest(pepper: bytes) -> bytes:
    """Return a digest that identifies a pepper and reveals nothing else of it."""
    return hashlib.blake2b(b"pepper", digest_size=16, key=pepper).digest()
