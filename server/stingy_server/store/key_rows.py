"""The rows of keys in the store: the statements that read them, and what the rows have."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from stingy_server.store.budget import Budget
from stingy_server.store.budget_statements import BUDGET_COLUMNS, COVERED
from stingy_server.store.key import Caller, Key, is_current
from stingy_server.times import month_of, today

# A key without a budget was not created completely, so it gets no images.
NO_BUDGET = Budget(total=0, used=0, day_total=None, day=0, day_used=0)
COLUMNS = "id, name, tier, rate, request_rate, created, expires, revoked, models, model_budgets"
SELECT = f"SELECT {COLUMNS} FROM keys"  # noqa: S608
WITH_BUDGETS = (
    f"SELECT {COLUMNS}, {BUDGET_COLUMNS} FROM keys "  # noqa: S608
    "LEFT JOIN budgets ON owner = 'key:' || id ORDER BY created, id"
)
# After the key: 1 if its budget covers one more image, and the count of the changes of keys.
VALID = f"""
SELECT {COLUMNS}, (SELECT 1 FROM budgets WHERE owner = 'key:' || id AND {COVERED}),
    (SELECT count FROM key_changes)
FROM keys WHERE digest = :digest AND revoked IS NULL
"""  # noqa: S608
VALID_ID = VALID.replace("digest = :digest", "id = :id")


def one_image() -> dict[str, Any]:
    """Return the values with which `COVERED` decides about one image now."""
    day = today()
    return {"images": 1, "today": day, "month": month_of(day)}


@cache
def valid_query(places: int) -> str:
    any_of = ", ".join(f":d{place}" for place in range(places))
    return VALID.replace(f"SELECT {COLUMNS}", f"SELECT digest, {COLUMNS}").replace(
        "= :digest", f"IN ({any_of})"
    )


def read_caller(row: Sequence[Any]) -> Caller | None:
    """Return the caller of a row of `VALID`, or None if its key has expired."""
    *columns, covered, changes = row
    key = read_key(columns)
    return Caller(key, covered is None, changes) if is_current(key) else None


def read_key(columns: Sequence[Any]) -> Key:
    """Return the key of a row of `COLUMNS`."""
    models, model_budgets = columns[-2:]
    allowed = None if models is None else frozenset(models.split())
    return Key(*[*columns[:-2], allowed, tuple(model_budgets.split())])


def read_budget(columns: Sequence[Any]) -> Budget:
    """Return the budget of `BUDGET_COLUMNS`, which are all NULL if there is none."""
    return NO_BUDGET if columns[1] is None else Budget(*columns)


def join_models(models: frozenset[str] | None) -> str | None:
    return None if models is None else " ".join(sorted(models))
