"""The published numbers, and ours beside them only where the same networks were run."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from audit_results import audit_of, endpoint_config, endpoint_of, row
from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.html import render
from stingy_attacker_eval.report.published import paper_tables

TABLES = tomllib.loads((files("stingy_attacker_eval.report") / "paper_tables.toml").read_text())


def papers_audit(
    tmp_path: Path, attack: str = "paper_kd", student: str = "resnet18", classes: int = 100
) -> Audit:
    teacher = "resnet18" if attack == "paper_kd" else "resnet34"
    rows = [row("none", "no_api", seed, 70.0, student=student) for seed in range(3)]
    for name, accuracy in (("t-normal", 73.0), ("t-stingy", 55.0)):
        rows += [row(name, attack, seed, accuracy, student=student) for seed in range(3)]
    endpoints = [
        endpoint_of("t-normal", defence="open", num_classes=classes),
        endpoint_of("t-stingy", defence="stingy", num_classes=classes),
    ]
    config: dict[str, Any] = {
        "students": [student],
        "teachers": [{"name": "t", "network": teacher, "epochs": 1}],
        "endpoints": [endpoint_config(e.name, bundle=e.name) for e in endpoints],
    }
    return audit_of(tmp_path, rows, endpoints, config)


def tables(audit: Audit) -> Any:
    return paper_tables(audit.report.config, audit.endpoints, audit.summaries)


def test_every_printed_cell_is_there() -> None:
    counts = {
        name: sum(len(row["students"]) + len(row["difference"]) for row in table["rows"])
        for name, table in TABLES.items()
    }
    assert counts == {"table1": 72, "table2_cifar10": 6, "table2_cifar100": 6}


@pytest.mark.parametrize("table", ["table1", "table2_cifar10", "table2_cifar100"])
def test_printed_differences_match_their_numbers_but_in_one_cell(table: str) -> None:
    printed = TABLES[table]
    wrong = []
    for item in printed["rows"]:
        normal = next(r for r in printed["rows"] if r["teacher"] == item["teacher"])
        for place, student in enumerate(printed["students"]):
            own = normal["accuracy"] if student == "self" else printed["baseline"].get(student)
            base = own if printed["baseline"] else normal["students"][place]
            if abs(item["students"][place] - base - item["difference"][place]) > 0.005:
                wrong.append((item["teacher"], item["defence"], student))
    assert wrong == ([("resnet50", "normal", "self")] if table == "table1" else [])


def test_own_numbers_are_shown_beside_the_printed_ones(
    tmp_path: Path,
) -> None:
    (table,) = tables(papers_audit(tmp_path))
    title, printed, ours, cells = table.rows[2]
    assert (title, printed, ours) == ("resnet18 stingy", 77.44, 80.0)
    shuffle, mobile, own, itself = cells
    assert (shuffle.ours, mobile.ours) == (None, None)
    assert own.ours.accuracy_mean == itself.ours.accuracy_mean == 55.0
    assert (own.printed, own.printed_difference, own.ours_difference) == (54.44, -23.0, -15.0)
    assert table.rows[1][2] is None  # no nasty teacher was run
    assert all(cell.ours is None for row in table.rows[3:] for cell in row[3])
    assert [cell.printed for cell in table.baseline] == [71.17, 69.12, 77.44, None]


def test_the_page_says_whose_data_set_is_which(tmp_path: Path) -> None:
    page = re.sub(r"\s+", " ", render(papers_audit(tmp_path)))
    assert "published for CIFAR-100, here on digits" in page
    assert "54.44 (\N{MINUS SIGN}23.00)" in page
    assert "5 epochs, batches of 64" in page


@pytest.mark.parametrize(("classes", "dataset"), [(10, "CIFAR-10"), (100, "CIFAR-100")])
def test_dafls_table_counts_from_the_normal_teachers_student(
    tmp_path: Path, classes: int, dataset: str
) -> None:
    (table,) = tables(papers_audit(tmp_path, "dafl[white-box]", classes=classes))
    assert table.dataset == dataset
    assert [cells[0].ours_difference for _, _, _, cells in table.rows] == [0.0, None, -18.0]


def test_another_attack_or_network_is_not_the_papers(tmp_path: Path) -> None:
    assert tables(papers_audit(tmp_path, "sweep[tau=4,alpha=0.9]")) == ()
    assert tables(papers_audit(tmp_path, student="resnet8")) == ()
