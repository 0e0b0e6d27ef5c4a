"""Query budgets of keys and of models, in images: 0 <= used <= total at every time.

One conditional UPDATE both checks and charges. Any number of processes, on any number of hosts,
therefore never grant one image too many.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from stingy_server.store.database import Database

MAX_BUDGET = 2**62
DAY_S = 86_400


@dataclass(frozen=True)
class Budget:
    """The limits of an owner and the images charged to it; None is no limit.

    Attributes:
        total: images in all.
        used: images charged in all.
        day_total: images in a day of UTC.
        day: the day of the last charge, in days since 1 January 1970.
        day_used: images charged in `day`.
    """

    total: int | None
    used: int
    day_total: int | None
    day: int
    day_used: int

    def remaining(self, today: int) -> int | None:
        """Return the images left on the day `today`, or None if there is no limit."""
        left = [] if self.total is None else [self.total - self.used]
        if self.day_total is not None:
            left.append(self.day_total - (self.day_used if self.day >= today else 0))
        return max(0, min(left)) if left else None


@dataclass(frozen=True)
class Reservation:
    """A charge of images to one or two owners, made before the images are answered."""

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
        """Set the limits of an owner. The images charged to it stay charged."""
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

        A day never opens twice. If the clock is set back, the charge counts for the later day.

        Args:
            owners: one or two.
            images: their number.

        Returns:
            The charge, or None if an owner has no budget row or fewer images left.
        """
        day = today()
        first, last = owners[0], owners[-1]
        values = {"first": first, "last": last, "images": images, "today": day}
        owed = 1 if first == last else 2
        charged = self._database.execute(RESERVE[owed], values).rowcount
        return Reservation((first, last)[:owed], images, day) if charged == owed else None

    def refund(self, reservation: Reservation) -> None:
        """Return the images of a charge to its owners, because they were not answered.

        The daily count changes only if the charge is of the same day.
        """
        values = {
            "first": reservation.owners[0],
            "last": reservation.owners[-1],
            "images": reservation.images,
            "day": reservation.day,
        }
        self._database.execute(REFUND, values)


def today() -> int:
    """Return the present day of UTC, in days since 1 January 1970."""
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

# The statement for each number of owners. It both checks and charges, so it is exact beside other
# writers, and it is its own transaction where none is open. It has no text of a request.
# PostgreSQL would count two rows as they were when the statement began. With FOR UPDATE it waits
# for other charges of these rows, and counts the rows as they are then. For SQLite, which needs no
# such wait, FOR UPDATE is in a comment.
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
