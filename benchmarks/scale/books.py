"""Keys, budgets and ledger by the server's own code, in SQLite or in PostgreSQL.

Both are exact: the granted images equal the charged ones, however many processes write.
"""

import contextlib
from pathlib import Path

from stingy_server import Budgets, Database, Keys
from stingy_server.store.budgets import key_owner
from stingy_server.store.ledger import Entry, Ledger
from stingy_server.times import stamp

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


class Books:
    """The store operations of requests, for several requests of one key at once.

    Args:
        state: the state folder.
        key_id: the id of the key, which owns the budget.
        key: the text of the key.
        store: the address of PostgreSQL, or None for SQLite.
        durable: whether a commit of PostgreSQL waits for the disk.
    """

    def __init__(
        self, state: Path, key_id: str, key: str, *, store: str | None = None, durable: bool = True
    ) -> None:
        self._database = Database(state, store=store, lock_timeout_s=60)
        self._remote = store is not None
        if self._remote:
            self._database.execute(f"SET synchronous_commit = {'on' if durable else 'off'}")
        self._budgets = Budgets(self._database)
        self._ledger = Ledger(self._database)
        self._keys = Keys(self._database)
        self._owner = key_owner(key_id)
        self._key = key

    @staticmethod
    def prepare(state: Path, budget: int, *, store: str | None = None) -> tuple[str, str]:
        """Create a key with a budget and return its id and its text."""
        with contextlib.closing(Database(state, store=store)) as database:
            key, text = Keys(database).create("all", budget=budget, per_day=budget)
        return key.id, text

    def look_up(self, requests: int) -> None:
        """Look up the key once for every request.

        Raises:
            LookupError: the key is not valid.
        """
        for _ in range(requests):
            if self._keys.authenticate(self._key) is None:
                raise LookupError("expected a valid key, got none")

    def charge(self, requests: int, images: int = 1) -> int:
        """Charge requests of `images` each in one transaction and return how many were granted."""
        with self._database.transaction(locks=(self._owner,)):
            reservations = [self._budgets.reserve([self._owner], images) for _ in range(requests)]
        return sum(one is not None for one in reservations)

    def record(self, requests: int) -> None:
        """Append a ledger entry for every request, in one transaction."""
        with self._database.transaction():
            for _ in range(requests):
                self._ledger.append_all([ENTRY])

    def used(self) -> int:
        """Return the images charged to the key."""
        budget = self._budgets.get(self._owner)
        return 0 if budget is None else budget.used

    def entry_bytes(self) -> float:
        """Return the bytes of a ledger entry on the disk, index included."""
        if self._remote:
            (size,) = self._database.execute("SELECT pg_total_relation_size('ledger')").fetchone()
            return float(size / self._ledger.last(0))
        # The other pages have only one key and one budget.
        (pages,) = self._database.execute("PRAGMA page_count").fetchone()
        (size,) = self._database.execute("PRAGMA page_size").fetchone()
        return float(pages * size / self._ledger.last(0))

    def close(self) -> None:
        self._database.close()
