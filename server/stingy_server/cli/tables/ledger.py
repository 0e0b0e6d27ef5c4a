"""`stingy ledger tail`: entries of the ledger as a table."""

from collections.abc import Mapping, Sequence

from stingy_clients.text_table import Column, format_table, terminal_width
from stingy_server.store.ledger import Entry

COLUMNS = (
    Column("seq", right=True, fill=5),
    Column("time (UTC)", fill=14),
    Column("key", fill=8),
    Column("event", fill=16, least=16),
    Column("model", fill=10, least=4),
    Column("images", right=True, fill=6),
    Column("bits", right=True, fill=6),
    Column("ms", right=True, fill=5),
    Column("code", right=True, fill=4),
)
# What else a wide terminal has room for.
WIDE = 120
NAME = Column("name", fill=12, least=8)
EVENT = Column("event", fill=20, least=20)
DETAIL = Column("detail", least=12)


def ledger_lines(
    entries: Sequence[tuple[int, Entry]], names: Mapping[str, str], *, heads: bool
) -> list[str]:
    """Return the lines of some entries, for people.

    Args:
        entries: with their numbers.
        names: of the keys, by their ids.
        heads: whether the titles come first.
    """
    is_wide = terminal_width() >= WIDE
    rows = []
    for seq, entry in entries:
        cells = _cells(seq, entry)
        if is_wide:
            cells = (*cells[:3], names.get(entry.key, ""), *cells[3:], entry.detail or "")
        rows.append(cells)
    columns = (*COLUMNS[:3], NAME, EVENT, *COLUMNS[4:], DETAIL) if is_wide else COLUMNS
    return format_table(columns, rows, heads=heads)


def _cells(seq: int, entry: Entry) -> tuple[str, ...]:
    is_query = entry.status > 0  # an event of the server or of an operator has no images
    times = f" x{entry.requests}" if entry.requests > 1 else ""
    return (
        str(seq),
        entry.time[5:19].replace("T", " "),
        entry.key,
        f"{entry.event}{times}",
        entry.model,
        f"{entry.images:,}" if is_query else "",
        f"{entry.bits:,.1f}" if entry.answered else "",
        f"{entry.latency_us / 1000 / max(1, entry.requests):,.1f}" if is_query else "",
        str(entry.status) if is_query else "",
    )
