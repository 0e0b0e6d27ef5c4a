"""Pruning: the oldest entries of the ledger are deleted, and an entry says so.

An entry `pruned` has the number of the deleted entries and, for each chain that they were in, the
number and the hash at which it was cut. So the rest of the ledger can still be verified. Entries
`pruned` are never deleted.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile

from stingy_server.store.base import StoreBusy, StoreUnavailable
from stingy_server.store.database import Database
from stingy_server.store.ledger import PRUNED, Entry, Head, Ledger, event_entry
from stingy_server.times import stamp

BATCH = 10_000  # entries of one transaction, for which servers wait
LEAST_PAUSE_S = 0.05
TRIES = 5

OLDEST = """
SELECT seq, time FROM ledger WHERE event != ? ORDER BY seq LIMIT ?
"""
# The last entry of each chain among the entries up to a number.
CUTS = """
SELECT writer, number, hash FROM ledger WHERE seq IN (
    SELECT MAX(seq) FROM ledger WHERE seq <= ? AND event != ? AND writer != '' GROUP BY writer
)
"""


@dataclass(frozen=True)
class Pruned:
    """Entries that were deleted together: their number, and the number of the last of them."""

    entries: int
    last: int


def prune(database: Database, *, before: datetime) -> Iterator[Pruned]:
    """Delete the entries from the oldest on, up to the first that is not older than a time.

    Each step is one transaction, so an interrupted pruning leaves a ledger that can be verified.
    Servers may run: they wait for one step at most.

    Args:
        before: the time, which has passed.

    Raises:
        StoreUnavailable: the user does not own the tables, or the store cannot be written.
    """
    while True:
        started = time.monotonic()
        pruned = _retry(database, stamp(before))
        if pruned is None:
            return
        yield pruned
        # Others have their turn. SQLite serves those who wait for its lock in no order.
        time.sleep(max(LEAST_PAUSE_S, time.monotonic() - started))


def parse_moment(given: str) -> datetime:
    """Parse a date or a time, of UTC if it names no other zone.

    Raises:
        ValueError: it is no date of ISO 8601, or it has not passed.
    """
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise ValueError(f"expected a date such as 2026-01-31, got {given}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise ValueError(f"expected a time that has passed, got {given}")
    return moment


def _retry(database: Database, before: str) -> Pruned | None:
    """Prune one batch. Try several times to get the lock that servers use."""
    for _ in range(TRIES - 1):
        try:
            return _prune_batch(database, before)
        except StoreBusy:
            time.sleep(LEAST_PAUSE_S)
    return _prune_batch(database, before)


def _prune_batch(database: Database, before: str) -> Pruned | None:
    """Delete at most `BATCH` entries and record that. Return None if no entry is older."""
    with database.transaction(), database.deletable_ledger():
        oldest = database.execute(OLDEST, (PRUNED, BATCH)).fetchall()
        old = [seq for seq, moment in takewhile(lambda row: row[1] < before, oldest)]
        if not old:
            return None
        cuts = [Head(*row) for row in database.execute(CUTS, (old[-1], PRUNED)).fetchall()]
        deleted = database.execute(
            "DELETE FROM ledger WHERE seq <= ? AND event != ?", (old[-1], PRUNED)
        ).rowcount
        if deleted != len(old):
            raise StoreUnavailable("the store failed: it deleted other entries than it was given")
        Ledger(database).append_all([_entry(before, Pruned(deleted, old[-1]), cuts)])
    return Pruned(deleted, old[-1])


def _entry(before: str, pruned: Pruned, cuts: list[Head]) -> Entry:
    detail = {
        "before": before,
        "entries": pruned.entries,
        "last": pruned.last,
        "chains": {head.writer: [head.number, head.hash.hex()] for head in cuts},
    }
    return event_entry(stamp(), PRUNED, key=None, detail=detail)
