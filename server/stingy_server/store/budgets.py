"""Query budgets of keys and of models, in images: 0 <= used <= total at every time.

One conditional UPDATE both checks and charges. Any number of processes, on any number of hosts,
therefore never grant one image too many.

A row also has a `stop` for each of its limits: the most images that can be charged without a look
at the limit. Charges up to the stops take the short statement. A charge beyond a stop, or the first
of a day or a month, takes the long one. It returns the row's numbers, so that it also finds the
shares of a limit that the charge has reached, and moves the stops. A stop of 0 is not computed yet.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from stingy_server.store.database import Database
from stingy_server.times import DAY_S, month_of, start_of_month, today

MAX_BUDGET = 2**62
NO_STOP = 2**63 - 1
MAX_OWNERS = 5
REPORTED = (80, 95)  # percent of a limit
BUDGET_COLUMNS = "total, used, day_total, day, day_used, month_total, month, month_used"


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
            left.append(self.day_total - self.used_in_day(today))
        if self.month_total is not None:
            left.append(self.month_total - self.used_in_month(today))
        return max(0, min(left)) if left else None

    def used_in_day(self, today: int) -> int:
        """Return the images charged in the day `today`, or in a later day that has opened."""
        return self.day_used if self.day >= today else 0

    def used_in_month(self, today: int) -> int:
        """Return the images charged in the month of `today`, or in a later one that has opened."""
        return self.month_used if self.month >= month_of(today) else 0

    def wait_s(self, images: int, now: float) -> int | None:
        """Return the seconds until so many images fit; None if they never do.

        Args:
            now: seconds since 1970. A day or a month that has opened early, because the clock was
                set back, ends later.
        """
        today = int(now // DAY_S)
        limits = (self.day_total, self.month_total)
        if any(limit is not None and images > limit for limit in limits):
            return None
        if self.total is not None and self.used + images > self.total:
            return None
        opens = now
        if self.month_total is not None and self.used_in_month(today) + images > self.month_total:
            opens = start_of_month(self.month + 1)
        if self.day_total is not None and self.used_in_day(today) + images > self.day_total:
            opens = max(opens, (self.day + 1) * DAY_S)
        return max(1, math.ceil(opens - now))


class Period(StrEnum):
    """The period of a limit."""

    TOTAL = "total"
    DAY = "day"
    MONTH = "month"


class Crossing(NamedTuple):
    """A share of a limit that a charge has reached, for the first time in the period.

    Attributes:
        owner: the owner of the budget.
        period: the period of the limit.
        percent: the share of the limit, one of `REPORTED`.
        limit: images in the period.
        used: images charged in the period, this charge included.
    """

    owner: str
    period: Period
    percent: int
    limit: int
    used: int


# A NamedTuple, because a frozen dataclass costs half a microsecond more and every request has one.
class Reservation(NamedTuple):
    """A charge of images to one to five owners, made before the images are answered.

    Attributes:
        owners: the owners, each once, in any order.
        images: their number.
        days: for each owner, the day that the images count for.
        months: for each owner, the month that they count for.
        crossings: the shares of limits that the charge has reached.
    """

    owners: tuple[str, ...]
    images: int
    days: tuple[int, ...]
    months: tuple[int, ...]
    crossings: tuple[Crossing, ...] = ()


def key_owner(key_id: str) -> str:
    return f"key:{key_id}"


def model_owner(name: str) -> str:
    return f"model:{name}"


def key_model_owner(key_id: str, name: str) -> str:
    """Return the owner of the budget that a key has for one model."""
    return f"key:{key_id}:{name}"


def parts_of_owner(owner: str) -> tuple[str, str | None, str | None]:
    """Return the kind of an owner, such as "key_model", the id of its key and its model's name.

    An id or a name that it does not have is None.
    """
    kind, _, rest = owner.partition(":")
    if kind == "model":
        return kind, None, rest
    if kind != "key":
        return kind, None, None
    key_id, _, name = rest.partition(":")
    return ("key_model", key_id, name) if name else (kind, key_id, None)


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
        """Set the limits of an owner. The images charged to it stay charged.

        The shares of a changed limit are reported anew.
        """
        self._database.execute(SET_LIMITS, (owner, total, day_total, month_total))

    def get(self, owner: str) -> Budget | None:
        row = self._database.execute(
            f"SELECT {BUDGET_COLUMNS} FROM budgets WHERE owner = ?",  # noqa: S608
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
        if self._database.execute(RESERVE_SHORT[owed], values).rowcount == owed:
            return Reservation(different, images, (day,) * owed, (month,) * owed)
        # A budget is too small, a charge passes a stop, a period is new, or the clock was set back.
        rows = [_Charged(*row) for row in self._database.execute(RESERVE[owed], values).fetchall()]
        if len(rows) != owed:
            return None
        crossings = tuple(crossing for row in rows for crossing in self._move_stops(row))
        return Reservation(
            tuple(row.owner for row in rows),
            images,
            tuple(row.day for row in rows),
            tuple(row.month for row in rows),
            crossings,
        )

    def _move_stops(self, row: "_Charged") -> Iterator[Crossing]:
        """Move the stops of a charged row, and yield the shares that the charge has reached.

        A stop moves only if it and its limit are as the charge has read them. So of two charges
        that are no transaction together, one reports a share.
        """
        for period, limit, used, stop, number in (
            (Period.TOTAL, row.total, row.used, row.stop, 0),
            (Period.DAY, row.day_total, row.day_used, row.day_stop, row.day),
            (Period.MONTH, row.month_total, row.month_used, row.month_stop, row.month),
        ):
            moved, reached = _next_stop(limit, used, stop)
            if moved == stop:
                continue
            values: dict[str, str | int] = {
                "owner": row.owner,
                "limit": -1 if limit is None else limit,
                "stop": stop,
                "moved": moved,
                "number": number,
            }
            if self._database.execute(MOVE_STOP[period], values).rowcount == 1:
                for percent in reached:
                    yield Crossing(row.owner, period, percent, limit or 0, used)

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


class _Charged(NamedTuple):
    """A row of the budgets after a charge. Its stops are those before it, 0 in a new period."""

    owner: str
    day: int
    month: int
    total: int | None
    used: int
    stop: int
    day_total: int | None
    day_used: int
    day_stop: int
    month_total: int | None
    month_used: int
    month_stop: int


def _next_stop(limit: int | None, used: int, stop: int) -> tuple[int, list[int]]:
    """Return the next stop of a limit, and the percentages beyond the stop that are reached."""
    if limit is None:
        return NO_STOP, []
    # The smallest numbers of images that are at least these shares of the limit.
    shares = [(percent, -(-limit * percent // 100)) for percent in REPORTED]
    due = [(percent, images) for percent, images in shares if images > stop]
    ahead = [images - 1 for _, images in due if images > used]
    return min(ahead, default=limit), [percent for percent, images in due if images <= used]


PLACES = ("first", "second", "third", "fourth", "fifth")

# A changed limit has a stop of 0, and an unchanged one keeps its stop.
SET_LIMITS = """
INSERT INTO budgets (owner, total, day_total, month_total) VALUES (?, ?, ?, ?)
ON CONFLICT (owner) DO UPDATE SET
    total = excluded.total,
    day_total = excluded.day_total,
    month_total = excluded.month_total,
    stop = CASE WHEN COALESCE(budgets.total, -1) = COALESCE(excluded.total, -1)
        THEN budgets.stop ELSE 0 END,
    day_stop = CASE WHEN COALESCE(budgets.day_total, -1) = COALESCE(excluded.day_total, -1)
        THEN budgets.day_stop ELSE 0 END,
    month_stop = CASE WHEN COALESCE(budgets.month_total, -1) = COALESCE(excluded.month_total, -1)
        THEN budgets.month_stop ELSE 0 END
"""

COVERED = """
    (total IS NULL OR used + :images <= total)
    AND (day_total IS NULL
         OR CASE WHEN :today > day THEN 0 ELSE day_used END + :images <= day_total)
    AND (month_total IS NULL
         OR CASE WHEN :month > month THEN 0 ELSE month_used END + :images <= month_total)
"""

# A stop is never above its limit, so a charge up to the stops is covered. Without RETURNING, which
# costs as much as the rest of the statement.
CHARGE_SHORT = """
UPDATE budgets SET
    used = used + :images, day_used = day_used + :images, month_used = month_used + :images
"""
COVERED_SHORT = """
    day = :today AND month = :month AND used + :images <= stop
    AND day_used + :images <= day_stop AND month_used + :images <= month_stop
"""

CHARGE = """
UPDATE budgets SET
    used = used + :images,
    day_used = CASE WHEN :today > day THEN :images ELSE day_used + :images END,
    month_used = CASE WHEN :month > month THEN :images ELSE month_used + :images END,
    day_stop = CASE WHEN :today > day THEN 0 ELSE day_stop END,
    month_stop = CASE WHEN :month > month THEN 0 ELSE month_stop END,
    day = CASE WHEN :today > day THEN :today ELSE day END,
    month = CASE WHEN :month > month THEN :month ELSE month END
"""
RETURNING = f"RETURNING {', '.join(_Charged._fields)}"


def _move_stop(stop: str, limit: str, number: str) -> str:
    return (
        f"UPDATE budgets SET {stop} = :moved WHERE owner = :owner AND {stop} = :stop "  # noqa: S608
        f"AND COALESCE({limit}, -1) = :limit AND {number} = :number"
    )


MOVE_STOP = {
    Period.TOTAL: _move_stop("stop", "total", "0"),
    Period.DAY: _move_stop("day_stop", "day_total", "day"),
    Period.MONTH: _move_stop("month_stop", "month_total", "month"),
}


def _places(owners: int) -> str:
    return ", ".join(f":{place}" for place in PLACES[:owners])


def _reserve(charge: str, covered: str, owners: int, returning: str = "") -> str:
    """Write the statement that charges so many owners.

    It both checks and charges, so it is exact beside other writers, and it is its own transaction
    where none is open. It has no text of a request. PostgreSQL would count several rows as they
    were when the statement began. With FOR UPDATE it waits for other charges of these rows, and
    counts the rows as they are then. For SQLite, which needs no such wait, FOR UPDATE is in a
    comment.

    Args:
        charge: the start of the statement, up to its conditions.
        covered: the condition of a row that covers the images.
        owners: their number.
        returning: what it returns of each row.
    """
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


COUNTS = range(1, MAX_OWNERS + 1)
RESERVE_SHORT = {owners: _reserve(CHARGE_SHORT, COVERED_SHORT, owners) for owners in COUNTS}
RESERVE = {owners: _reserve(CHARGE, COVERED, owners, RETURNING) for owners in COUNTS}
REFUND = {owners: _refund(owners) for owners in COUNTS}
