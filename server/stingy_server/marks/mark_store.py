"""The marked inputs and controls in the state. Invariant: a row shows its day and no more.

The key and the input of a row are keyed digests, the rest is encrypted. So a copy of the state does
not show whose answers were marked, or which.
"""

import hmac
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

from stingy_server.marks.evidence import Evidence, Sealer
from stingy_server.marks.secret import MarkSecret
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import Database
from stingy_server.store.ledger import Ledger, event_entry
from stingy_server.times import stamp

LOCKS = ("marks",)
ID_BYTES = 16
EPOCH = date(1970, 1, 1)

# A key keeps a row while there is at least as much room left as it has rows already.
ADD = """
INSERT INTO marks (id, day, owner, input, body)
SELECT :id, :day, :owner, :input, :body
WHERE (SELECT COUNT(*) FROM marks)
    + (SELECT COUNT(*) FROM marks WHERE owner = :owner) < :kept
ON CONFLICT (input) DO NOTHING
"""


class MarkStore:
    """The rows of the marks in a database, under one secret.

    Raises:
        StoreUnavailable: from every method, if the database cannot be read or written.
    """

    def __init__(self, database: Database, secret: MarkSecret) -> None:
        self._database = database
        self._secret = secret
        self._sealer = Sealer(secret, random=secrets.token_bytes)
        self._ledger = Ledger(database)

    def adopt(self) -> None:
        """Make the secret that of the state at the first use, and record that in the ledger.

        Raises:
            StoreUnavailable: the state was first used with another secret.
        """
        with self._database.transaction(locks=LOCKS):
            self._adopt()

    def _adopt(self) -> None:
        """Adopt the secret inside the open transaction."""
        if self.is_known():
            return
        self._database.execute("INSERT INTO marks_secret VALUES (?)", (self._secret.commitment,))
        detail = {"commitment": self._secret.commitment.hex()}
        self._ledger.append_all([event_entry(stamp(), "marks_secret", key=None, detail=detail)])

    def is_known(self) -> bool:
        """Check that the secret is that of the state. Return False if the state has none yet.

        Raises:
            StoreUnavailable: the state was first used with another secret.
        """
        found = self._database.execute("SELECT commitment FROM marks_secret").fetchone()
        if found is None:
            return False
        if not hmac.compare_digest(bytes(found[0]), self._secret.commitment):
            raise StoreUnavailable(
                "marks.secret_file: expected the secret that the state was first used with, got "
                "another: name the file with the first one, or delete all marks with: "
                "stingy marks forget"
            )
        return True

    def add(self, evidence: Evidence, *, kept: int) -> bool:
        """Add evidence inside the open transaction, which has locked `LOCKS`.

        Args:
            kept: the most rows of all keys. A key alone gets half of them.

        Returns:
            False if there is no room for it, or if the input of this key is there already.
        """
        self._adopt()  # an operator may have deleted all marks since the start
        answered = evidence.answered
        row = secrets.token_bytes(ID_BYTES)
        inserted = self._database.execute(
            ADD,
            {
                "id": row,
                "day": (datetime.now(UTC).date() - EPOCH).days,
                "owner": self._secret.derive("owner", answered.key.encode()),
                "input": self._secret.derive(
                    "input",
                    answered.key.encode(),
                    answered.model.encode(),
                    answered.coarse.encode(),
                ),
                "body": self._sealer.seal(row, evidence),
                "kept": kept,
            },
        )
        return inserted.rowcount == 1

    def ids(self) -> list[bytes]:
        """Return the ids of all rows."""
        return [bytes(row) for (row,) in self._database.execute("SELECT id FROM marks ORDER BY id")]

    def get(self, row: bytes) -> Evidence:
        """Return the evidence of a row.

        Raises:
            EvidenceUnreadable: it was changed, or is under another secret.
            StoreUnavailable: the row is gone.
        """
        found = self._database.execute("SELECT body FROM marks WHERE id = ?", (row,)).fetchone()
        if found is None:
            raise StoreUnavailable("expected the marks as they were, got fewer: try once more")
        return self._sealer.open(row, bytes(found[0]))

    def all(self) -> Iterator[tuple[bytes, Evidence]]:
        """Yield all rows, one in memory at a time.

        Raises:
            EvidenceUnreadable: a row was changed, or is under another secret.
        """
        for row in self.ids():
            yield row, self.get(row)

    def record(self, event: str, detail: Mapping[str, Any]) -> None:
        """Record an event of an operator in the ledger."""
        self._ledger.append(event_entry(stamp(), event, key=None, detail=detail))


def forget(database: Database, *, before: date, detail: Mapping[str, Any]) -> int:
    """Delete the marks of all days before a day of UTC. Return their number.

    It needs no secret. With the last row, the state forgets the secret's digest too, so that
    another secret can be used from then on.

    Args:
        detail: what the ledger says about it, such as who does it.

    Raises:
        StoreUnavailable: the database cannot be written.
    """
    with database.transaction(locks=LOCKS):
        deleted = database.execute(
            "DELETE FROM marks WHERE day < ?", ((before - EPOCH).days,)
        ).rowcount
        (left,) = database.execute("SELECT COUNT(*) FROM marks").fetchone()
        if not left:
            database.execute("DELETE FROM marks_secret")
        named = {**detail, "inputs": deleted, "before": before.isoformat()}
        Ledger(database).append_all(
            [event_entry(stamp(), "marks_forgotten", key=None, detail=named)]
        )
    return deleted
