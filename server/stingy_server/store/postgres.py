"""The state in a PostgreSQL that the servers of several hosts share.

The statements are those for SQLite, translated here and nowhere else. A connection that broke is
replaced by the next statement outside of a transaction; what was in one does not hold.
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

# Whoever is silent for so long is gone; the address may say otherwise.
CONNECT = {
    "application_name": "stingy",
    "connect_timeout": 2,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
PATIENCE_S = 10.0  # a statement may take, and a transaction may idle, before the server ends it
TYPES = (
    ("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    ("INTEGER", "BIGINT"),
    ("REAL", "DOUBLE PRECISION"),
    ("BLOB", "BYTEA"),
    (") STRICT", ")"),
)


class Postgres:
    """A PostgreSQL, with a connection for each thread that uses it."""

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
            f"SET statement_timeout = '{max(PATIENCE_S, lock_timeout_s)}s';"
            f"SET idle_in_transaction_session_timeout = '{PATIENCE_S}s'"
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
                done = connection.execute(translated(statement), values)
        except psycopg.Error as error:
            raise StoreUnavailable(f"the store failed: {type(error).__name__}") from None
        # Asked to commit what failed before, PostgreSQL rolls back and calls it no error.
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
        # In one order, lest two transactions wait for each other.
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
        """The thread's own.

        Raises:
            psycopg.Error: there is none to be had.
        """
        found: psycopg.Connection[Any] | None = getattr(self._of_thread, "connection", None)
        if found is not None and not found.closed and not _ended(found):
            return found
        if self._closed:
            raise psycopg.OperationalError
        if found is not None:
            found.close()
            self._connections.remove(found)
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


def _ended(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has closed it: to one that asks nothing it has nothing else to say."""
    if connection.info.transaction_status != TransactionStatus.IDLE:
        return False
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


@lru_cache(maxsize=256)
def translated(statement: str) -> bytes:
    """A statement with its places as psycopg wants them, and what only PostgreSQL reads."""
    statement = statement.replace("/* FOR UPDATE */", "FOR UPDATE")
    return re.sub(r":(\w+)", r"%(\1)s", statement).replace("?", "%s").encode()


def _number(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"stingy").digest()
    return int.from_bytes(digest, signed=True)


def _pepper_digest(pepper: bytes) -> bytes:
    """Return a digest that identifies a pepper and reveals nothing else of it."""
    return hashlib.blake2b(b"pepper", digest_size=16, key=pepper).digest()
