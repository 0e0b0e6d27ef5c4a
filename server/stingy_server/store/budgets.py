"""Query budgets of keys and of models, in images: 0 <= used <= total at every time.

One conditional UPDATE both checks and charges. Any number of processes, on any number of hosts,
therefore never grant one image too many.

A row also has a `stop` for each of its limits: the most images that can be charged without a look
at the limit. Charges up to the stops take the short statement. A charge beyond a stop, or the first
of a day or a month, takes the long one. It returns the row's numbers, so that it also finds the
shares of a limit that the charge has reached, and moves the stops. A stop of 0 is not computed yet.
"""

import time
from collections.abc import Iterator, Sequence

from stingy_server.store.budget import Budget, Crossing, Period, Reservation
from stingy_server.store.budget_statements import (
    BUDGET_COLUMNS,
    MOVE_STOP,
    PLACES,
    REFUND,
    RESERVE,
    RESERVE_SHORT,
    SET_LIMITS,
    ChargedRow,
)
from stingy_server.store.database import Database
from stingy_server.times import month_of, today

NO_STOP = 2**63 - 1
REPORTED = (80, 95)  # percent of a limit


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

    def wait_s(self, owners: Sequence[str], images: int) -> int | None:
        """Return the seconds until the budgets of all owners cover these images.

        Returns:
            None if they never do.
        """
        now = time.time()
        waits = []
        for owner in owners:
            budget = self.get(owner)
            wait = None if budget is None else budget.wait_s(images, now)
            if wait is None:
                return None
            waits.append(wait)
        return max(waits)

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
        rows = [
            ChargedRow(*row) for row in self._database.execute(RESERVE[owed], values).fetchall()
        ]
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

    def _move_stops(self, row: ChargedRow) -> Iterator[Crossing]:
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


def _next_stop(limit: int | None, used: int, stop: int) -> tuple[int, list[int]]:
    """Return the next stop of a limit, and the percentages beyond the stop that are reached."""
    if limit is None:
        return NO_STOP, []
    # The smallest numbers of images that are at least these shares of the limit.
    shares = [(percent, -(-limit * percent // 100)) for percent in REPORTED]
    due = [(percent, images) for percent, images in shares if images > stop]
    ahead = [images - 1 for _, images in due if images > used]
    return min(ahead, default=limit), [percent for percent, images in due if images <= used]
