"""The books in SQLite, with the server's own code, and in PostgreSQL, with the same statements.

Both are exact: what was granted is what is charged, whoever else writes.
"""

import contextlib
from dataclasses import astuple, fields
from pathlib import Path
from typing import Protocol

import psycopg

from stingy_server import Budgets, Database, Keys
from stingy_server.budgets import key_owner
from stingy_server.keys import stamp
from stingy_server.ledger import Entry, Ledger

ENTRY = Entry(
    time=stamp(),
    request="0" * 32,
    key="0" * 8,
    model="pets",
    version="1",
    fingerprint="0" * 12,
    pixels="0" * 32,
    images=1,
    answered=1,
    bits=3.5,
    status=200,
    event="answer",
    latency_us=2000,
)


class Books(Protocol):
    """What a request needs of the store, for several requests of one key at once."""

    def look_up(self, requests: int) -> None:
        """Whether the key is valid, asked for every request."""

    def charge(self, requests: int, images: int = 1) -> int:
        """Requests granted, of `images` each, in one transaction."""

    def record(self, requests: int) -> None:
        """An entry for every request, in one transaction."""

    def used(self) -> int:
        """Images charged to the key."""

    def entry_bytes(self) -> float:
        """What an entry of the ledger takes on the disk, its index with it."""

    def close(self) -> None: ...


class SqliteBooks:
    """One file, as the server has it."""

    def __init__(self, state: Path, key_id: str, key: str) -> None:
        self._database = Database(state, lock_timeout_s=60)
        self._budgets = Budgets(self._database)
        self._ledger = Ledger(self._database)
        self._keys = Keys(self._database)
        self._owner = key_owner(key_id)
        self._key = key

    @staticmethod
    def prepare(state: Path, budget: int) -> tuple[str, str]:
        """A key with a budget: its id and its text."""
        with contextlib.closing(Database(state)) as database:
            key, text = Keys(database).create("all", budget=budget, per_day=budget)
        return key.id, text

    def look_up(self, requests: int) -> None:
        for _ in range(requests):
            if self._keys.authenticate(self._key) is None:
                raise LookupError("expected a valid key, got none")

    def charge(self, requests: int, images: int = 1) -> int:
        with self._database.transaction():
            tried = [self._budgets.reserve([self._owner], images) for _ in range(requests)]
        return sum(one is not None for one in tried)

    def record(self, requests: int) -> None:
        with self._database.transaction():
            for _ in range(requests):
                self._ledger.append(ENTRY)

    def used(self) -> int:
        budget = self._budgets.get(self._owner)
        return 0 if budget is None else budget.used

    def entry_bytes(self) -> float:
        # Beside the ledger there are a key and a budget.
        (pages,) = self._database.execute("PRAGMA page_count").fetchone()
        (size,) = self._database.execute("PRAGMA page_size").fetchone()
        return float(pages * size / self._ledger.last(0))

    def close(self) -> None:
        self._database.close()


SCHEMA = """
CREATE TABLE keys (digest text PRIMARY KEY, id text NOT NULL, revoked text);
CREATE TABLE budgets (
    owner text PRIMARY KEY,
    total bigint,
    used bigint NOT NULL DEFAULT 0 CHECK (used >= 0),
    day_total bigint,
    day bigint NOT NULL DEFAULT 0,
    day_used bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE ledger (
    seq bigserial PRIMARY KEY, time text NOT NULL, request text NOT NULL, key text NOT NULL,
    model text NOT NULL, version text NOT NULL, fingerprint text NOT NULL, pixels text,
    images bigint NOT NULL, answered bigint NOT NULL, bits double precision NOT NULL,
    status bigint NOT NULL, event text NOT NULL, latency_us bigint NOT NULL
);
"""
LOOK_UP = "SELECT id FROM keys WHERE digest = %s AND revoked IS NULL"
CHARGE = """
UPDATE budgets SET
    used = used + %(images)s,
    day_used = CASE WHEN %(today)s > day THEN %(images)s ELSE day_used + %(images)s END,
    day = GREATEST(day, %(today)s)
WHERE owner = %(owner)s
    AND (total IS NULL OR used + %(images)s <= total)
    AND (day_total IS NULL
         OR CASE WHEN %(today)s > day THEN 0 ELSE day_used END + %(images)s <= day_total)
"""
NAMES = [field.name for field in fields(Entry)]
RECORD = f"INSERT INTO ledger ({', '.join(NAMES)}) VALUES ({', '.join(['%s'] * len(NAMES))})"  # noqa: S608
ROW = astuple(ENTRY)


class PostgresBooks:
    """The same in PostgreSQL: statements that wait for nothing travel together."""

    def __init__(self, address: str, key: str, *, durable: bool) -> None:
        self._connection = psycopg.connect(address, autocommit=True, prepare_threshold=1)
        self._connection.execute(f"SET synchronous_commit = {'on' if durable else 'off'}")
        self._charge = {"owner": key, "today": 20_000}
        self._key = key

    @staticmethod
    def prepare(address: str, key: str, budget: int) -> None:
        """Tables that are empty but for a key and its budget."""
        with psycopg.connect(address) as connection:
            connection.execute(SCHEMA)
            connection.execute("INSERT INTO keys VALUES (%s, %s)", (key, key))
            connection.execute(
                "INSERT INTO budgets (owner, total, day_total) VALUES (%s, %s, %s)",
                (key, budget, budget),
            )

    def look_up(self, requests: int) -> None:
        with self._together(requests), self._connection.cursor() as cursor:
            for _ in range(requests):
                cursor.execute(LOOK_UP, (self._key,))

    def charge(self, requests: int, images: int = 1) -> int:
        values = {**self._charge, "images": images}
        if requests == 1:
            return self._connection.execute(CHARGE, values).rowcount
        with self._connection.transaction(), self._connection.pipeline():
            tried = [self._connection.execute(CHARGE, values) for _ in range(requests)]
        return sum(one.rowcount for one in tried)

    def record(self, requests: int) -> None:
        if requests == 1:
            self._connection.execute(RECORD, ROW)
            return
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(RECORD, [ROW] * requests)

    def used(self) -> int:
        found = self._connection.execute(
            "SELECT used FROM budgets WHERE owner = %s", (self._key,)
        ).fetchone()
        return int(found[0]) if found else 0

    def entry_bytes(self) -> float:
        found = self._connection.execute(
            "SELECT pg_total_relation_size('ledger')::float / COUNT(*) FROM ledger"
        ).fetchone()
        return float(found[0]) if found else 0.0

    def close(self) -> None:
        self._connection.close()

    def _together(self, requests: int) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if requests == 1 else self._connection.pipeline()
