"""The tables of pages are drawn from audits, and the pages are as the command writes them."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from audit_results import audit_of, row, rows_of

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "benchmarks" / "audit"


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    sys.path.insert(0, str(FOLDER))  # as for a script
    try:
        return runpy.run_path(str(FOLDER / "tables.py"))
    finally:
        sys.path.remove(str(FOLDER))


@pytest.mark.parametrize(
    "page", ["README.md", "docs/results.md", "docs/policies.md", "docs/prove.md"]
)
def test_page_has_the_tables_that_the_command_writes(tables: dict[str, Any], page: str) -> None:
    assert page in tables["PAGES"]
    text = (ROOT / page).read_text(encoding="utf-8")
    assert tables["fill"](text) == text


def page_of(kind: str) -> str:
    return f"Before.\n<!-- table made-up {kind} -->\nold\n<!-- end of table -->\nAfter.\n"


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("students paper_kd", "| open | 80.0 | 71.0 (+1.0 ±0.5) |"),
        ("students paper_kd", "| no API |  | 70.0 |"),
        ("attacks", "| open | 71.0 (+1.0 ±0.5) | 72.0 (+2.0 ±0.5) |"),
        ("list owner", "| open | label_only | 1,000 | 72.0 | +2.0 ±0.5 |"),
        ("attackers", "| owner | open | 70.0 |"),
        ("brief open,label", "| the true labels of all its images | +2.0 ±0.5 |  |"),
        ("frontier", "| open | 80.0 | 95.0 |"),
    ],
)
def test_table_has_the_numbers_of_its_audit(
    tables: dict[str, Any], tmp_path: Path, kind: str, line: str
) -> None:
    (tmp_path / "made-up").mkdir()
    audit_of(tmp_path / "made-up", rows_of({"open": {"paper_kd": 1.0, "label_only": 2.0}}))
    filled = tables["fill"](page_of(kind), tmp_path)
    assert line in filled
    assert "old" not in filled
    assert (filled[:8], filled[-7:]) == ("Before.\n", "After.\n")
    assert tables["fill"](filled, tmp_path) == filled


def test_held_out_gap_is_compared_seed_by_seed(tables: dict[str, Any], tmp_path: Path) -> None:
    rows = [row("none", "no_api", seed, 45.0, attacker="few-labels") for seed in range(3)]
    rows += [
        row("label", "label_only", seed, 62.0 + seed / 10, attacker="few-labels")
        for seed in range(3)
    ]
    attackers = [{"name": "few-labels", "labelled": 0.05}]
    (tmp_path / "made-up").mkdir()
    audit_of(tmp_path / "made-up", rows, config={"attackers": attackers})
    filled = tables["fill"](page_of("gaps"), tmp_path)
    assert "| few labels: label | few-labels | +17.10 ± 0.06 | +17.20 | yes |" in filled
    assert "| few labels: open | few-labels |  | +18.70 |  |" in filled
