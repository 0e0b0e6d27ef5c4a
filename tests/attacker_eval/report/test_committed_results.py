"""The numbers in the README are those of the committed rows, and the pages are drawn from them."""

import json
import re
from pathlib import Path

import pytest

from stingy_attacker_eval.report.analysis import read_audit
from stingy_attacker_eval.report.exporters import as_markdown
from stingy_attacker_eval.report.formatting import signed
from stingy_attacker_eval.results import Row, best_attacks, summarise

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "attacker_eval" / "results"
FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/rows.jsonl"))


def rows(folder: str) -> list[Row]:
    lines = (RESULTS / folder / "rows.jsonl").read_text().splitlines()
    return [Row(**json.loads(line)) for line in lines]


def published(folder: str) -> dict[str, list[str]]:
    """The README's table after the link to this report: by endpoint, its cells."""
    text = (ROOT / "README.md").read_text()
    table = text.partition(f"results/{folder}/report.html")[2].partition("\n\n")[2]
    lines = [line.split("|")[1:-1] for line in table.partition("\n\n")[0].splitlines()[2:]]
    named = {re.findall(r"\*(\w+)\*", line[0])[0]: line[1:] for line in lines}
    return {name: [cell.strip() for cell in cells] for name, cells in named.items()}


@pytest.mark.parametrize("folder", ["reduced_cifar10", "reduced_tin100"])
def test_readme_numbers_are_those_of_the_rows(folder: str) -> None:
    found = summarise(rows(folder))
    by_attack = {(each.endpoint, each.attack): each for each in found}
    best = best_attacks(found)
    cells_of = published(folder)
    assert set(cells_of) == set(best)
    for endpoint, cells in cells_of.items():
        shown = ("paper_kd", "label_only", "soft_label")
        expected = [by_attack[endpoint, attack] for attack in shown]
        assert cells == [
            signed(each.uplift_mean, each.uplift_spread) for each in (*expected, best[endpoint])
        ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_committed_report_is_whole(folder: str) -> None:
    document = json.loads((RESULTS / folder / "report.json").read_text())
    assert len(rows(folder)) == len(document["rows"])
    assert all(row.finite for row in rows(folder))
    for endpoint in document["endpoints"]:
        assert endpoint["queries_spent"] == endpoint["queries_charged"]
    page = (RESULTS / folder / "report.html").read_text()
    assert document["config"]["title"] in page
    assert "reduced" in document["config"]["title"]
    assert not re.search(r"(src|href)=\"https?:", page)  # opens without a network


@pytest.mark.parametrize("folder", ["frontier_cifar10", "frontier_tin100"])
def test_the_page_of_policies_has_the_frontier_as_it_is_printed(folder: str) -> None:
    printed = as_markdown(read_audit(RESULTS / folder))
    table = printed[printed.index("| endpoint |") :].partition("\n\n")[0]
    assert table in (ROOT / "docs" / "policies.md").read_text()
