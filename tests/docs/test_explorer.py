"""The policy explorer: each row has the numbers of the committed audit."""

import re
from pathlib import Path

import pytest

from stingy_attacker_eval.report.analysis import read_audit
from stingy_attacker_eval.report.label_only_baseline import Outcome
from stingy_site.explorer import (
    AUDITS,
    LATER,
    OUTCOMES,
    WIDTH,
    Choice,
    choices,
    explorer_page,
    signed,
    table,
)

RESULTS = Path(__file__).parents[2] / "attacker_eval" / "results"
LIST = Choice("a", "stingy:n=2", 77.9, 90.6, 6.5, 24, 1.1, "rank", (0.8, 0.3, 1.3), "")


@pytest.mark.parametrize("name", AUDITS)
def test_every_policy_of_the_audit_has_a_row_with_its_numbers(name: str) -> None:
    audit, found = read_audit(RESULTS / name), choices(RESULTS / name)
    assert len(found) == len(audit.points) == 11
    drawn = table(name, "title", found)
    for choice in found:
        (point,) = [each for each in audit.points if each.endpoint == choice.endpoint]
        assert (choice.top1, choice.first5) == (point.utility.top1, point.utility.top5)
        (row,) = re.findall(rf'<tr [^>]*data-endpoint="{choice.endpoint}".*</tr>', drawn)
        assert f"<td>{choice.first5:.1f}</td>" in row
        assert f"<td>{choice.answer_bytes:,}</td>" in row
        if choice.gap is not None:
            (item,) = [x for x in audit.label_baselines if x.endpoint == choice.endpoint]
            assert choice.gap == (item.gap.mean, *(item.gap.interval or ()))
            said = f"{signed(choice.gap[0])}, from {signed(choice.gap[1])} to"
            assert f'aria-label="{said} ' in row
    assert len({choice.policy for choice in found}) == 11
    assert [choice.gap is None for choice in found].count(True) == 1  # labels themselves


def test_row_is_of_the_audit_that_found_the_larger_gap() -> None:
    name = "frontier_tin100"
    first = {each.endpoint: each for each in choices(RESULTS / name)}
    found = {each.endpoint: each for each in choices(RESULTS / name, RESULTS / LATER[name])}
    changed = [endpoint for endpoint in found if found[endpoint] != first[endpoint]]
    assert changed == ["reverse-sigmoid"]
    assert first["reverse-sigmoid"].outcome == Outcome.NO_MORE
    assert found["reverse-sigmoid"].outcome == Outcome.MORE


def test_every_outcome_of_an_audit_has_its_words() -> None:
    assert set(OUTCOMES) == {*map(str, Outcome), ""}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_outcome_decides_the_colour_and_the_words(outcome: str) -> None:
    choice = Choice(**{**vars(LIST), "outcome": outcome})
    kind, words = OUTCOMES[outcome]
    drawn = table("name", "title", [choice])
    assert f'<tr class="{kind}"' in drawn
    assert f"<td>{words}</td>" in drawn
    untried = table("name", "title", [Choice(**{**vars(choice), "untried": ("inversion",)})])
    assert f"<td>{words}; inversion could not run</td>" in untried


def test_names_are_text_and_never_markup() -> None:
    choice = Choice(**{**vars(LIST), "policy": "<b>x", "attack": "<script>"})
    drawn = table("name", "a <i> title", [choice])
    assert "<b>" not in drawn
    assert "<script>" not in drawn
    assert "<i>" not in drawn


def test_marks_are_inside_the_figure_and_in_their_order() -> None:
    low = Choice(**{**vars(LIST), "policy": "low", "gap": (-5.0, -6.0, -4.0)})
    drawn = table("name", "title", [low, LIST])
    places = [float(x) for x in re.findall(r'<rect class="mark" x="([\d.-]+)"', drawn)]
    assert 0 <= places[0] < places[1] <= WIDTH


def test_page_names_the_command_and_the_report_of_each_audit() -> None:
    page = explorer_page(RESULTS)
    for name, title in AUDITS.items():
        assert f"## {title}" in page
        assert f"`stingy audit report attacker_eval/results/{name} --format md`" in page
        assert (RESULTS / name / "report.html").exists()
