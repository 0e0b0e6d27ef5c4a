"""`stingy keys usage`: the budgets of one key, in all and in each period."""

from typing import Any

from stingy_clients.text_table import Column, format_table, make_printable
from stingy_server.store.key import Key

COLUMNS = (
    Column("models", least=8),
    Column("period"),
    Column("used", right=True),
    Column("budget", right=True),
    Column("left", right=True),
    Column("resets (UTC)"),
)


def usage_lines(key: Key, document: dict[str, Any]) -> list[str]:
    """Return the lines about one key, for people.

    Args:
        key: the key.
        document: its `usage_document`.
    """
    rows = []
    for model, fields in ({"all": document} | document["models"]).items():
        periods = {"in all": fields, "day": fields["day"], "month": fields["month"]}
        rows += [
            (
                model,
                name,
                f"{period['used']:,}",
                "no limit" if period["budget"] is None else f"{period['budget']:,}",
                ""
                if period["budget"] is None
                else f"{max(0, period['budget'] - period['used']):,}",
                period.get("resets", "")[:16].replace("T", " "),
            )
            for name, period in periods.items()
        ]
    title = make_printable(f"{key.name}, key {key.id}, tier {key.tier}")
    return [title, *format_table(COLUMNS, rows)]
