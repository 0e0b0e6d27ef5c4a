"""Tables of plain text that fit a terminal. Invariant: a cell cannot control the terminal.

Numbers stand to the right. A column that may be cut is cut as far as needed; the others never are.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

# Joiners, which Persian, Indian scripts and emoji need, and two wide spaces.
_HARMLESS = "\u200c\u200d\u00a0\u3000"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        head: its title.
        right: whether its cells stand to the right.
        least: characters to which it may be cut; None if it is never cut.
        fill: characters that it takes at least, so that parts of a long table fit together.
    """

    head: str
    right: bool = False
    least: int | None = None
    fill: int = 0


def format_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    heads: bool = True,
) -> list[str]:
    """Return the lines of a table: the titles, then one line for each row.

    Args:
        columns: the columns.
        rows: the cells of each row.
        width: characters of a line; None for those of the terminal. A table whose columns cannot
            be cut so far is wider.
        heads: whether the titles come first.
    """
    from rich.cells import cell_len

    titles = [column.head for column in columns]
    cells = [[make_printable(cell) for cell in row] for row in rows]
    natural = [
        max(column.fill, *(cell_len(row[place]) for row in [titles, *cells]))
        for place, column in enumerate(columns)
    ]
    most = terminal_width() if width is None else width
    for gap in (2, 1):
        widths = _fit(natural, columns, most - gap * (len(columns) - 1))
        if sum(widths) + gap * (len(columns) - 1) <= most:
            break
    lines = [titles, *cells] if heads else cells
    return [_format_line(line, columns, widths, gap) for line in lines]


def terminal_width() -> int:
    """Return the characters of a line of the terminal, 80 if there is none."""
    return shutil.get_terminal_size().columns


def make_printable(text: str) -> str:
    """Replace control characters and marks that change the order of others."""
    return "".join(each if each.isprintable() or each in _HARMLESS else "?" for each in text)


def _fit(widths: Sequence[int], columns: Sequence[Column], room: int) -> list[int]:
    """Cut the widest columns that may be cut until all fit, or none can be cut further."""
    fitted = list(widths)
    while sum(fitted) > room:
        spare = [
            (width, place)
            for place, (width, column) in enumerate(zip(fitted, columns, strict=True))
            if column.least is not None and width > column.least
        ]
        if not spare:
            break
        _, widest = max(spare)
        fitted[widest] -= 1
    return fitted


def _format_line(
    cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int], gap: int
) -> str:
    from rich.cells import cell_len, set_cell_size

    parts = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        text = cell if cell_len(cell) <= width else f"{set_cell_size(cell, width - 1)}…"
        padding = " " * (width - cell_len(text))
        parts.append(padding + text if column.right else text + padding)
    return (" " * gap).join(parts).rstrip()
