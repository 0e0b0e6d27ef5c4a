"""Query budgets, of keys and of models, in images: 0 <= used <= total, always and everywhere.

One conditional UPDATE both checks and charges, so any number of processes together, on whichever
hosts, never grant one image too many.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from stingy_server.store.database import Database

MAX_BUDGET = 2**62
DAY_S = 86_400


@dataclass(frozen=True)
class Budget:
    """What an owner may ask and has asked, in images; None is no limit.

    A day is a day of UTC. `day_used` is of the day `day`, counted from 1 January 1970.
    """

    total: int | None
    used: int
    day_total: int | None
    day: int
    day_used: int

    def remaining(self, today: int) -> int | None:
        """Images left today, or None without any limit."""
        left = [] if self.total is None else [self.total - self.used]
        if self.day_total is not None:
            left.append(self.day_total - (self.day_used if self.day >= today else 0))
        return max(0, min(left)) if left else None


@dataclass(frozen=True)
class Reservation:
    """Images charged to several owners before they are answered."""

    owners: tuple[str, ...]
    images: int
    day: int


def key_owner(key_id: str) -> str:
    return f"key:{key_id}"


def model_owner(name: str) -> str:
    return f"model:{name}"


class Budgets:
    """The budgets in a database.

    Raises:
        StoreUnavailable: from every method.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, owner: str, *, total: int | None, day_total: int | None) -> None:
        """Give an owner its limits; what it has used stays."""
        self._database.execute(
            "INSERT INTO budgets (owner, total, day_total) VALUES (?, ?, ?) "
            "ON CONFLICT (owner) DO UPDATE SET total = excluded.total, "
            "day_total = excluded.day_total",
            (owner, total, day_total),
        )

    def get(self, owner: str) -> Budget | None:
        row = self._database.execute(
            "SELECT total, used, day_total, day, day_used FROM budgets WHERE owner = ?", (owner,)
        ).fetchone()
        return None if row is None else Budget(*row)

    def reserve(self, owners: Sequence[str], images: int) -> Reservation | None:
        """Charge images to all owners, or to none if one budget does not cover them.

        Args:
            owners: one or two.

        Time never runs backwards here: a clock set back finds the later day still open.
        """
        day = today()
        first, last = owners[0], owners[-1]
        values = {"first": first, "last": last, "images": images, "today": day}
        owed = 1 if first == last else 2
        charged = self._database.execute(RESERVE[owed], values).rowcount
        return Reservation((first, last)[:owed], images, day) if charged == owed else None

    def refund(self, reservation: Reservation) -> None:
        """Give back what was reserved for images that were not answered."""
        values = {
            "first": reservation.owners[0],
            "last": reservation.owners[-1],
            "images": reservation.images,
            "day": reservation.day,
        }
        self._database.execute(REFUND, values)


def today() -> int:
    """The day of UTC, counted from 1 January 1970."""
    return int(time.time() // DAY_S)


COVERED = """
    (total IS NULL OR used + :images <= total)
    AND (day_total IS NULL
         OR CASE WHEN :today > day THEN 0 ELSE day_used END + :images <= day_total)
"""

CHARGE = """
UPDATE budgets SET
    used = used + :images,
    day_used = CASE WHEN :today > day THEN :images ELSE day_used + :images END,
    day = CASE WHEN :today > day THEN :today ELSE day END
"""

# One statement both checks and charges, so it is exact whoever else writes, and a transaction of
# its own where none is open. By the number of owners; nothing of a request is in the statements.
# PostgreSQL would count two rows as they were when the statement began: FOR UPDATE, which SQLite
# does not read, lets it wait for who else charges them, and count them as they are then.
RESERVE = {
    1: f"{CHARGE} WHERE owner = :first AND {COVERED}",
    2: f"{CHARGE} WHERE owner IN (:first, :last) AND 2 = "  # noqa: S608
    f"(SELECT COUNT(*) FROM (SELECT owner FROM budgets WHERE owner IN (:first, :last) AND {COVERED}"
    " ORDER BY owner /* FOR UPDATE */) AS covered)",
}

REFUND = """
UPDATE budgets SET
    used = used - :images,
    day_used = CASE WHEN day = :day THEN day_used - :images ELSE day_used END
WHERE owner IN (:first, :last)
"""
