"""Tables of text: cut only where they may be, and nothing in them controls the terminal."""

import pytest
from rich.cells import cell_len

from stingy_clients.text_table import Column, format_table, make_printable

COLUMNS = (Column("id"), Column("name", least=4), Column("used", right=True))
ROWS = [("1f0c24d9", "bob", "5"), ("0e", "a customer with a long name", "12,345")]


def test_table_that_fits_shows_every_cell_whole() -> None:
    assert format_table(COLUMNS, ROWS, width=80) == [
        "id        name                           used",
        "1f0c24d9  bob                               5",
        "0e        a customer with a long name  12,345",
    ]


@pytest.mark.parametrize("width", [20, 24, 30, 46])
def test_only_columns_that_may_be_cut_are_cut(width: int) -> None:
    lines = format_table(COLUMNS, ROWS, width=width)
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines] == ["id", "1f0c24d9", "0e"]
    assert lines[2].endswith("12,345")


def test_table_that_cannot_be_cut_further_is_wider() -> None:
    lines = format_table(COLUMNS, ROWS, width=5)
    assert lines[1].startswith("1f0c24d9 bob ")
    assert lines[2].startswith("0e       a c… ")


def test_cells_cannot_control_the_terminal_or_the_order() -> None:
    rows = [("\x1b[31mred", "left\u202eright", "1\n2")]
    (_, line) = format_table(COLUMNS, rows, width=80)
    assert line == "?[31mred  left?right   1?2"


def test_joiners_and_wide_spaces_are_kept() -> None:
    text = "\u0645\u06cc\u200c\u062e 👩\u200d🌾 東京\u3000駅 a\u00a0b"
    assert make_printable(text) == text
    assert make_printable("a\u200bb\u2066c") == "a?b?c"


def test_wide_characters_count_as_two_columns() -> None:
    lines = format_table(COLUMNS, [("a", "日本語の名前", "1"), ("b", "xy", "22")], width=20)
    assert {cell_len(line) for line in lines} == {20}


def test_parts_of_a_long_table_fit_together() -> None:
    columns = (Column("seq", right=True, fill=7), Column("key", fill=8), Column("ms", right=True))
    first = format_table(columns, [("9", "abc", "1")], width=80)
    second = format_table(columns, [("10", "defg", "2")], width=80, heads=False)
    assert first[0].index("key") == second[0].index("defg")
    assert len(second) == 1
