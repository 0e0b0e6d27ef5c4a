"""Query budgets of keys and of models, in images: 0 <= used <= total at every time.

One conditional UPDATE both checks and charges. Any number of processes, on any number of hosts,
therefore never grant one image too many.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from stingy_server.store.database import Database

MAX_BUDGET = 2**62
DAY_S = 86_400
MAX_OWNERS = 5


@dataclass(frozen=True)
class Budget:
    """The limits of an owner and the images charged to it; None is no limit.

    Attributes:
        total: images in all.
        used: images charged in all.
        day_total: images in a day of UTC.
        day: the day of the last charge, in days since 1 January 1970.
        day_used: images charged in `day`.
        month_total: images in a month of UTC.
        month: the month of the last charge, in months since January 1970.
        month_used: images charged in `month`.
    """

    total: int | None
    used: int
    day_total: int | None
    day: int
    day_used: int
    month_total: int | None = None
    month: int = 0
    month_used: int = 0

    def remaining(self, today: int) -> int | None:
        """Return the images left on the day `today`, or None if there is no limit."""
        left = [] if self.total is None else [self.total - self.used]
        if self.day_total is not None:
            left.append(self.day_total - (self.day_used if self.day >= today else 0))
        if self.month_total is not None:
            left.append(
                self.month_total - (self.month_used if self.month >= month_of(today) else 0)
            )
        return max(0, min(left)) if left else None


# A NamedTuple, because a frozen dataclass costs half a microsecond more and every request has one.
class Reservation(NamedTuple):
    """A charge of images to one to five owners, made before the images are answered.

    Attributes:
        owners: the owners, each once, in any order.
        images: their number.
        days: for each owner, the day that the images count for.
        months: for each owner, the month that they count for.
    """

    owners: tuple[str, ...]
    images: int
    days: tuple[int, ...]
    months: tuple[int, ...]


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

    def set(
        self,
        owner: str,
        *,
        total: int | None,
        day_total: int | None,
        month_total: int | None = None,
    ) -> None:
        """Set the limits of an owner. The images charged to it stay charged."""
        self._database.execute(
            "INSERT INTO budgets (owner, total, day_total, month_total) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (owner) DO UPDATE SET total = excluded.total, "
            "day_total = excluded.day_total, month_total = excluded.month_total",
            (owner, total, day_total, month_total),
        )

    def get(self, owner: str) -> Budget | None:
        row = self._database.execute(
            "SELECT total, used, day_total, day, day_used, month_total, month, month_used "
            "FROM budgets WHERE owner = ?",
            (owner,),
        ).fetchone()
        return None if row is None else Budget(*row)

    def reserve(self, owners: Sequence[str], images: int) -> Reservation | None:
        """Charge images to all owners, or to none if one budget does not cover them.

        A day or a month never opens twice. If the clock is set back, the charge counts for the
        later one.

        Args:
            owners: one to five, such as a key, a model, the two together, and the groups of a
                principal.
            images: their number.

        Returns:
            The charge, or None if an owner has no budget row or fewer images left.
        """
        day = today()
        month = month_of(day)
        values: dict[str, str | int]
        values = {"first": owners[0], "images": images, "today": day, "month": month}
        different = tuple(owners)
        if len(different) > 1:
            different = tuple(dict.fromkeys(owners))
            values.update(zip(PLACES, different, strict=False))
        owed = len(different)
        if self._database.execute(RESERVE[owed], values).rowcount == owed:
            return Reservation(different, images, (day,) * owed, (month,) * owed)
        # A budget is too small, or the clock was set back.
        rows = self._database.execute(RESERVE_LATER[owed], values).fetchall()
        if len(rows) != owed:
            return None
        charged, days, months = zip(*rows, strict=True)
        return Reservation(charged, images, days, months)

    def refund(self, reservation: Reservation) -> None:
        """Return the images of a charge to its owners, because they were not answered.

        They return to the day and the month that they count for, whatever the clock says now. An
        owner whose row has gone on to another day or month has no count of the old one any more.
        """
        values: dict[str, str | int] = {"images": reservation.images}
        for place, owner, day, month in zip(
            PLACES, reservation.owners, reservation.days, reservation.months, strict=False
        ):
            values |= {place: owner, f"{place}_day": day, f"{place}_month": month}
        self._database.execute(REFUND[len(reservation.owners)], values)


def today() -> int:
    """Return the present day of UTC, in days since 1 January 1970."""
    return int(time.time() // DAY_S)


@lru_cache(maxsize=8)
def month_of(day: int) -> int:
    """Return the month of a day, in months since January 1970."""
    date = datetime.fromtimestamp(day * DAY_S, UTC)
    return 12 * (date.year - 1970) + date.month - 1


PLACES = ("first", "second", "third", "fourth", "fifth")

COVERED = """
    (total IS NULL OR used + :images <= total)
    AND (day_total IS NULL
         OR CASE WHEN :today > day THEN 0 ELSE day_used END + :images <= day_total)
    AND (month_total IS NULL
         OR CASE WHEN :month > month THEN 0 ELSE month_used END + :images <= month_total)
"""

CHARGE = """
UPDATE budgets SET
    used = used + :images,
    day_used = CASE WHEN :today > day THEN :images ELSE day_used + :images END,
    month_used = CASE WHEN :month > month THEN :images ELSE month_used + :images END,
"""
# Without RETURNING, which costs as much as the rest of the statement.
NOW = "day = :today, month = :month"
NOT_LATER = "day <= :today AND month <= :month AND"
LATER = """
    day = CASE WHEN :today > day THEN :today ELSE day END,
    month = CASE WHEN :month > month THEN :month ELSE month END
"""
RETURNING = "RETURNING owner, day, month"


def _places(owners: int) -> str:
    return ", ".join(f":{place}" for place in PLACES[:owners])


def _reserve(owners: int, *, later: bool) -> str:
    """Write the statement that charges so many owners.

    It both checks and charges, so it is exact beside other writers, and it is its own transaction
    where none is open. It has no text of a request. PostgreSQL would count several rows as they
    were when the statement began. With FOR UPDATE it waits for other charges of these rows, and
    counts the rows as they are then. For SQLite, which needs no such wait, FOR UPDATE is in a
    comment.

    Args:
        owners: their number.
        later: whether rows of a later day or month than the present are charged too, for their
            own. The statement then returns the day and the month of each row.
    """
    charge = CHARGE + (LATER if later else NOW)
    covered = COVERED if later else NOT_LATER + COVERED
    returning = RETURNING if later else ""
    if owners == 1:
        return f"{charge} WHERE owner = :first AND {covered} {returning}"
    these = f"owner IN ({_places(owners)})"
    return (
        f"{charge} WHERE {these} AND {owners} = "  # noqa: S608
        f"(SELECT COUNT(*) FROM (SELECT owner FROM budgets WHERE {these} AND {covered} "
        f"ORDER BY owner /* FOR UPDATE */) AS covered) {returning}"
    )


def _counted_for(column: str, owners: int) -> str:
    cases = " ".join(f"WHEN :{place} THEN :{place}_{column}" for place in PLACES[:owners])
    return f"{column} = CASE owner {cases} END"


def _refund(owners: int) -> str:
    """Write the statement that refunds so many owners."""
    return f"""
UPDATE budgets SET
    used = used - :images,
    day_used = CASE WHEN {_counted_for("day", owners)} THEN day_used - :images ELSE day_used END,
    month_used = CASE WHEN {_counted_for("month", owners)} THEN month_used - :images
        ELSE month_used END
WHERE owner IN ({_places(owners)})
"""  # noqa: S608


RESERVE = {owners: _reserve(owners, later=False) for owners in range(1, MAX_OWNERS + 1)}
RESERVE_LATER = {owners: _reserve(owners, later=True) for owners in range(1, MAX_OWNERS + 1)}
REFUND = {owners: _refund(owners) for owners in range(1, MAX_OWNERS + 1)}
