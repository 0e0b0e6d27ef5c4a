"""Numbers in README.md and docs/results.md equal the committed rows; pages are drawn from them."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from scipy import stats

from stingy_attacker_eval.report.analysis import read_audit
from stingy_attacker_eval.report.exporters import as_markdown
from stingy_attacker_eval.report.html import render
from stingy_attacker_eval.results import Row, best_attacks, summarise

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "attacker_eval" / "results"
FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/rows.jsonl"))
DRAWN = sorted(str(path.parent.relative_to(RESULTS)) for path in RESULTS.rglob("report.json"))


def rows(folder: str) -> list[Row]:
    lines = (RESULTS / folder / "rows.jsonl").read_text().splitlines()
    return [Row(**json.loads(line)) for line in lines]


# The head of a published column, up to a bracket or a number, and the attack it is about.
COLUMNS = {
    "paper's attack": "paper_kd",
    "labels only": "label_only",
    "soft labels": "soft_label",
    "best of": None,
}
PUBLISHED = [
    ("docs/results.md", "reduced_cifar10"),
    ("docs/results.md", "reduced_tin100"),
]


def published(page: str, folder: str) -> dict[str, dict[str, str]]:
    """Return the page's table after the link to a report: cells by endpoint and column."""
    text = (ROOT / page).read_text(encoding="utf-8")
    table = text.partition(f"results/{folder}/report.html")[2].partition("\n\n")[2]
    head, _, *lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table.partition("\n\n")[0].splitlines()
    ]
    names = [re.findall(r"\*(\w+)\*", line[0])[0] for line in lines]
    return {
        name: dict(zip(head[1:], line[1:], strict=True))
        for name, line in zip(names, lines, strict=True)
    }


@pytest.mark.parametrize(("page", "folder"), PUBLISHED)
def test_published_tables_hold_the_rows_numbers(page: str, folder: str) -> None:
    found = summarise(rows(folder))
    by_attack = {(each.endpoint, each.attack): each for each in found}
    best, audit = best_attacks(found), read_audit(RESULTS / folder)
    table = published(page, folder)
    assert set(table) == set(best)
    for endpoint, cells in table.items():
        assert len(cells) >= 2
        for head, cell in cells.items():
            (attack,) = [name for start, name in COLUMNS.items() if head.startswith(start)]
            summary = best[endpoint] if attack is None else by_attack[endpoint, attack]
            assert cell == audit.uplift_text(summary), (endpoint, head)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_committed_report_is_whole(folder: str) -> None:
    document = json.loads((RESULTS / folder / "report.json").read_text())
    assert len(rows(folder)) == len(document["rows"])
    for endpoint in document["endpoints"]:
        assert endpoint["queries_spent"] == endpoint["queries_charged"]
    page = (RESULTS / folder / "report.html").read_text()
    assert document["config"]["title"] in page
    broken = sum(not row.finite for row in rows(folder))
    assert not broken or f"{broken} of {len(rows(folder))} runs ended with a loss" in page
    assert "reduced" in document["config"]["title"]
    assert not re.search(r"(src|href)=\"https?:", page)  # opens without a network


@pytest.mark.parametrize(
    ("page", "head", "folder"),
    [
        ("docs/results.md", "CIFAR-10", "cifar10"),
        ("benchmarks/gpu/README.md", "CIFAR-10", "cifar10"),
        ("benchmarks/gpu/README.md", "`tin100`", "tin100"),
    ],
)
def test_table_1_of_a_page_holds_the_rows_accuracies(page: str, head: str, folder: str) -> None:
    found = rows(f"table1_gpu/{folder}")
    accuracy = {(row.defence, row.student): f"{row.accuracy:.1f}" for row in found}
    text = (ROOT / page).read_text(encoding="utf-8").partition(f"| {head} | teacher |")
    table = (text[1] + text[2]).partition("\n\n")[0]
    names, _, *lines = [[c.strip() for c in x.split("|")[1:-1]] for x in table.splitlines()]
    assert len(lines) == 4
    for defence, _, *cells in lines:
        for student, cell in zip(names[2:], cells, strict=True):
            key = (defence.replace(" ", "_").lower(), student.lower().replace("-", ""))
            assert cell.split()[0] == accuracy[key], (page, key)


def test_gpu_page_has_the_frontier_as_it_is_printed() -> None:
    folder = ROOT / "benchmarks" / "gpu"
    rows = folder / "results" / "frontier_cifar10" / "rows.jsonl"
    command = [sys.executable, str(folder / "seeds_table.py"), str(rows)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.count("\n") == 14
    assert printed in (folder / "README.md").read_text(encoding="utf-8")
    # The interval has the error of the baseline, which varies most where labels are few.
    accuracies: dict[str, dict[int, float]] = {}
    for line in rows.read_text().splitlines():
        found = Row.model_validate_json(line)
        is_shown = (found.attacker, found.budget) == ("few-labels", None) and found.seed > 2
        if is_shown and (found.endpoint, found.attack) in (
            ("none", "no_api"),
            ("label", "two_labels"),
        ):
            accuracies.setdefault(found.endpoint, {})[found.seed] = found.accuracy
    label, base = (list(accuracies[name].values()) for name in ("label", "none"))
    interval = stats.ttest_rel(label, base).confidence_interval()
    half = (interval.high - interval.low) / 2
    assert f"| label | +{interval.low + half:.1f} ± {half:.1f} two_labels |" in printed


@pytest.mark.parametrize("folder", ["frontier_cifar10_32", "frontier_tin100_32"])
def test_page_of_results_has_the_frontier_as_it_is_printed(folder: str) -> None:
    printed = as_markdown(read_audit(RESULTS / folder))
    table = printed[printed.index("| endpoint |") :].partition("\n\n")[0]
    assert table in (ROOT / "docs" / "results.md").read_text()


def whole_page(text: str) -> str:
    """Drop the sentence on attacks that were not tried, because it follows what is installed."""
    return re.sub(r'<li id="not-tried">.*?</li>', "", text, flags=re.DOTALL)


@pytest.mark.parametrize("folder", DRAWN)
def test_a_committed_page_is_drawn_by_this_code(folder: str) -> None:
    drawn = render(read_audit(RESULTS / folder))
    assert whole_page((RESULTS / folder / "report.html").read_text()) == whole_page(drawn), (
        f"draw it again: stingy audit report attacker_eval/results/{folder}"
    )


def test_picture_of_readme_is_of_the_committed_page() -> None:
    with Image.open(ROOT / "docs" / "report.png") as picture:
        about = picture.info.get("report")
    page = RESULTS / "frontier_tin100_32" / "report.html"
    assert about == hashlib.sha256(page.read_bytes()).hexdigest(), (
        "draw it again: python benchmarks/audit/draw_picture.py"
    )
