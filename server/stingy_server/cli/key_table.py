"""`stingy keys list`: every key with its limits, what it has used, its alarm, its last answer."""

import shutil
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from stingy_server.cli.command import to_line
from stingy_server.cli.key_options import model_names
from stingy_server.detection.key_profiles import KeyProfile, KeyProfileStore
from stingy_server.edge.usage_view import usage_document
from stingy_server.store.budgets import Budget, today
from stingy_server.store.database import Database
from stingy_server.store.keys import Key, Keys

COLUMNS = ("id", "name", "tier", "total", "day", "month", "alarm", "last")
LEFT = ("id", "name", "tier", "alarm")
UNITS = " kMGTPE"
MOST_TIER, LEAST_NAME = 8, 8  # characters that are shown


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
            "alarm": "none" if row.profile is None else row.profile.action,
            "last_used": _last_used(row),
        }
        for row in rows
        for usage in [usage_document(row.key, row.budget, row.model_budgets)]
    ]


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table, for people. They fit the terminal, unless it is very narrow.

    A second line of a key says what most keys do not have.
    """
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    tier, name = COLUMNS.index("tier"), COLUMNS.index("name")
    widths[tier] = min(widths[tier], MOST_TIER)
    columns = shutil.get_terminal_size().columns
    room = columns - sum(widths) + widths[name]
    gap = 2 if room - 2 * (len(COLUMNS) - 1) >= LEAST_NAME else 1
    widths[name] = min(widths[name], max(LEAST_NAME, room - gap * (len(COLUMNS) - 1)))
    yield _join(COLUMNS, widths, gap)
    for row, texts in zip(rows, cells[1:], strict=True):
        yield _join(texts, widths, gap)
        if more := _more(row):
            indent = " " * (widths[0] + gap)
            yield textwrap.fill(
                "; ".join(more), max(columns, 40), initial_indent=indent, subsequent_indent=indent
            )


def _join(texts: Sequence[str], widths: Sequence[int], gap: int) -> str:
    cut = [
        text if len(text) <= width else f"{text[: width - 1]}…"
        for text, width in zip(texts, widths, strict=True)
    ]
    aligned = [
        f"{text:<{width}}" if column in LEFT else f"{text:>{width}}"
        for column, text, width in zip(COLUMNS, cut, widths, strict=True)
    ]
    return (" " * gap).join(aligned).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    key, budget, day = row.key, row.budget, today()
    return (
        key.id,
        to_line(key.name),
        to_line(key.tier),
        _used(budget.used, budget.total),
        _used(budget.used_in_day(day), budget.day_total),
        _used(budget.used_in_month(day), budget.month_total),
        "-" if row.profile is None or row.profile.action == "none" else row.profile.action,
        "never" if row.profile is None else _short_time(time.time() - row.profile.updated),
    )


def _more(row: Row) -> list[str]:
    """Return what most keys do not have, such as an expiry."""
    key = row.key
    found = []
    if key.revoked is not None:
        found.append(f"revoked {key.revoked[:10]}")
    elif key.expires is not None:
        past = key.expires <= datetime.now(UTC).isoformat()
        found.append(f"{'expired' if past else 'expires'} {key.expires[:10]}")
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
    return f"{_short(used)}/{'-' if limit is None else _short(limit)}"


def _short(number: int) -> str:
    """Return a number in five characters at most, such as 12.3k. It is rounded down."""
    if number < 10_000:
        return str(number)
    power = (len(str(number)) - 1) // 3
    unit = 1000**power
    decimals = 3 - len(str(number // unit))
    return f"{number * 10**decimals // unit / 10**decimals:g}{UNITS[power]}"


def _short_time(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"


def _last_used(row: Row) -> str | None:
    if row.profile is None:
        return None
    return datetime.fromtimestamp(row.profile.updated, UTC).isoformat(timespec="seconds")
