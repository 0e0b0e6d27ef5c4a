"""The use of a key's budgets, as `/v1/usage` and `stingy keys usage` present it."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from stingy_server.store.budget import Budget
from stingy_server.store.key import Key
from stingy_server.times import DAY_S, month_of, start_of_month


def usage_document(
    key: Key, budget: Budget, model_budgets: Mapping[str, Budget], *, now: float | None = None
) -> dict[str, Any]:
    """Return the document of a key: its budgets, and those that it has for single models.

    Args:
        now: in seconds since 1970; None for the present time.
    """
    now = time.time() if now is None else now
    models = {model: _budget_fields(own, now) for model, own in sorted(model_budgets.items())}
    return {"key": key.id, **_budget_fields(budget, now), "models": models}


def _budget_fields(budget: Budget, now: float) -> dict[str, Any]:
    today = int(now // DAY_S)
    # A day or a month that has opened early, because the clock was set back, ends later.
    day_end = (max(budget.day, today) + 1) * DAY_S
    month_end = start_of_month(max(budget.month, month_of(today)) + 1)
    return {
        "budget": budget.total,
        "used": budget.used,
        "remaining": budget.remaining(today),
        "day": _period_fields(budget.day_total, budget.used_in_day(today), day_end),
        "month": _period_fields(budget.month_total, budget.used_in_month(today), month_end),
    }


def _period_fields(limit: int | None, used: int, end: float) -> dict[str, Any]:
    resets = datetime.fromtimestamp(end, UTC).isoformat().replace("+00:00", "Z")
    return {"budget": limit, "used": used, "resets": resets}
