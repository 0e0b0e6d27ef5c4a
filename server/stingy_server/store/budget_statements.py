"""The statements of the budgets, in the SQL of SQLite: limits, charges, refunds and stops."""

from typing import NamedTuple

from stingy_server.store.budget import Period

MAX_OWNERS = 5
BUDGET_COLUMNS = "total, used, day_total, day, day_used, month_total, month, month_used"


class ChargedRow(NamedTuple):
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
RETURNING = f"RETURNING {', '.join(ChargedRow._fields)}"


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
