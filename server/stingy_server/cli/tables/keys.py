"""`stingy keys list`: every key with its limits, what it has used, its state, its last answer."""

import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from stingy_clients.text_table import Column, format_table, make_printable, terminal_width
from stingy_server.cli.key_options import model_names
from stingy_server.cli.tables.short import short_number, short_time
from stingy_server.detection.key_profiles import Action, KeyProfile, KeyProfileStore
from stingy_server.edge.usage_view import usage_document
from stingy_server.store.budget import Budget
from stingy_server.store.database import Database
from stingy_server.store.key import Key, is_current
from stingy_server.store.keys import Keys
from stingy_server.times import today

COLUMNS = (
    Column("id"),
    Column("name", least=8),
    Column("tier", least=6),
    Column("total", right=True),
    Column("day", right=True),
    Column("month", right=True),
    Column("bits", right=True),
    Column("state"),
    Column("last", right=True),
)
STATES = {
    Action.ALARM: "alarm",
    Action.MARK: "marked",
    Action.LABELS: "labels",
    Action.REFUSE: "suspended",
}


@dataclass(frozen=True)
class Row:
    """A key with its budgets, those for single models by their names, and its profile."""

    key: Key
    budget: Budget
    model_budgets: dict[str, Budget]
    profile: KeyProfile | None


def read_rows(database: Database) -> list[Row]:
    """Read all keys, oldest first."""
    keys = Keys(database)
    profiles = {profile.key: profile for profile in KeyProfileStore(database).all()}
    return [
        Row(key, budget, keys.model_budgets(key), profiles.get(key.id))
        for key, budget in keys.all()
    ]


def documents(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the JSON object of each key, for scripts."""
    return [
        {
            **asdict(row.key),
            "models": None if row.key.models is None else sorted(row.key.models),
            "model_budgets": usage["models"],
            **{name: usage[name] for name in ("budget", "used", "remaining", "day", "month")},
            "state": find_state(row),
            "alarm": "none" if row.profile is None else row.profile.action,
            "bits": _mean_bits(row),
            "last_used": _last_used(row),
        }
        for row in rows
        for usage in [usage_document(row.key, row.budget, row.model_budgets)]
    ]


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table, for people. They fit 80 columns, with keys of the server's own.

    A second line of a key says what most keys do not have.
    """
    head, *table = format_table(COLUMNS, [_cells(row) for row in rows])
    indent = " " * 10
    yield head
    for row, line in zip(rows, table, strict=True):
        yield line
        if more := _more(row):
            yield textwrap.fill(
                make_printable("; ".join(more)),
                max(terminal_width(), 40),
                initial_indent=indent,
                subsequent_indent=indent,
            )


def find_state(row: Row) -> str:
    """Return whether a key is valid: "valid", or what is in the way, or the action of an alarm."""
    if row.key.revoked is not None:
        return "revoked"
    if not is_current(row.key):
        return "expired"
    action = Action.NONE if row.profile is None else Action(row.profile.action)
    return STATES.get(action, "valid")


def _cells(row: Row) -> tuple[str, ...]:
    key, budget, day = row.key, row.budget, today()
    bits = _mean_bits(row)
    return (
        key.id,
        key.name,
        key.tier,
        _used(budget.used, budget.total),
        _used(budget.used_in_day(day), budget.day_total),
        _used(budget.used_in_month(day), budget.month_total),
        "-" if bits is None else f"{bits:.1f}",
        find_state(row),
        "never" if row.profile is None else short_time(time.time() - row.profile.updated),
    )


def _more(row: Row) -> list[str]:
    """Return what most keys do not have, such as an expiry."""
    key = row.key
    found = []
    if key.revoked is not None:
        found.append(f"revoked {key.revoked[:10]}")
    elif key.expires is not None:
        found.append(f"{'expires' if is_current(key) else 'expired'} {key.expires[:10]}")
    if key.models is not None:
        found.append(f"models {model_names(key.models)}")
    if key.rate is not None:
        found.append(f"rate {key.rate}")
    if key.request_rate is not None:
        found.append(f"requests {key.request_rate}")
    day = today()
    for model, budget in sorted(row.model_budgets.items()):
        limits = {
            "in all": (budget.used, budget.total),
            "a day": (budget.used_in_day(day), budget.day_total),
            "a month": (budget.used_in_month(day), budget.month_total),
        }
        shown = [f"{_used(*pair)} {name}" for name, pair in limits.items() if pair[1] is not None]
        found.append(f"{model} {', '.join(shown)}")
    return found


def _used(used: int, limit: int | None) -> str:
    return f"{short_number(used)}/{'-' if limit is None else short_number(limit)}"


def _mean_bits(row: Row) -> float | None:
    """Return the mean leak bits of an answered image; None without an answer."""
    if row.profile is None or not row.profile.images:
        return None
    return round(row.profile.bits / row.profile.images, 2)


def _last_used(row: Row) -> str | None:
    if row.profile is None:
        return None
    return datetime.fromtimestamp(row.profile.updated, UTC).isoformat(timespec="seconds")
