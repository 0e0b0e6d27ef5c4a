"""docs/scale.md: the derived numbers follow from the measured ones."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = runpy.run_path(str(ROOT / "benchmarks" / "scale" / "table.py"))
SCALE, SPEED = ((ROOT / "docs" / name).read_text("utf-8") for name in ("scale.md", "speed.md"))


def test_the_table_equals_the_scripts_output() -> None:
    assert TABLE["table"](TABLE["measured"](SCALE, SPEED)) in SCALE


def test_another_measurement_gives_another_table() -> None:
    was, now = "| SQLite | group | 1 | 20528 |", "| SQLite | group | 1 | 40000 |"
    assert was in SCALE
    table = TABLE["table"](TABLE["measured"](SCALE.replace(was, now), SPEED))
    assert "| of the 40,000 that one shared budget carried" in table


def test_the_edges_time_equals_that_of_the_speed_page() -> None:
    edge_ms = TABLE["measured"](SCALE, SPEED).edge_ms
    (row,) = [line for line in SCALE.splitlines() if line.startswith("| the whole server")]
    assert f"| {edge_ms + 1e-9:.2f} |" in row
