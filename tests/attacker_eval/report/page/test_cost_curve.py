"""The cost curve: which attacks are drawn at which number of queries, and which are left out."""

from pathlib import Path

from audit_results import STUDENT, audit_of, row, rows_of
from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.ci_gate import gate_faults
from stingy_attacker_eval.report.html import render
from stingy_attacker_eval.report.page.cost_curve import best_by_budget, cost_curve
from stingy_attacker_eval.results import summarise

UPLIFTS = {"open": {"label_only": 0.1, "soft_label": 3.0}}


def several_budgets(tmp_path: Path) -> Audit:
    rows = rows_of(UPLIFTS)
    for budget, loss in ((100, 20.0), (500, 5.0)):
        rows += [row("open", "soft_label", seed, 73.0 - loss, budget=budget) for seed in range(3)]
        rows += [row("open", "label_only", seed, 72.5 - loss, budget=budget) for seed in range(3)]
    rows += [row("open", "data_free", seed, 71.0, queries=2_000_000) for seed in range(3)]
    return audit_of(tmp_path, rows)


def test_best_attack_per_budget_is_drawn_by_queries(tmp_path: Path) -> None:
    best = best_by_budget(several_budgets(tmp_path).summaries, "open")
    shown = {budget: (s.attack, s.accuracy_mean) for budget, s in best.items()}
    assert list(shown) == [100, 500, 1000, 2_000_000]
    assert shown[100] == ("soft_label", 53.0)


def test_the_curve_leaves_out_attacks_with_a_budget_of_their_own(tmp_path: Path) -> None:
    curve = cost_curve(several_budgets(tmp_path).summaries, student=STUDENT)
    assert curve is not None
    assert "open at 500 queries: 68.0 % by soft_label" in curve.text
    assert "data_free" not in curve.text
    assert [line.name for line in curve.lines] == ["open", "no API, as many images"]
    assert all(panel.count("<polyline") for panel in curve.panels)


def test_curve_takes_the_attack_that_other_seeds_chose(tmp_path: Path) -> None:
    rows = rows_of(UPLIFTS)
    for attack, choosing, reported in (("soft_label", 60.0, 50.0), ("label_only", 50.0, 60.0)):
        rows += [
            row("open", attack, s, choosing if s == 0 else reported, budget=100) for s in range(3)
        ]
    config = {"seeds": [1, 2], "selection_seeds": [0]}
    summary = summarise(rows, selection_seeds=[0])
    curve = cost_curve(
        audit_of(tmp_path, rows, config=config, summary=summary).summaries, student=STUDENT
    )
    assert curve is not None
    assert "open at 100 queries: 50.0 % by soft_label" in curve.text


def test_only_the_whole_transfer_set_draws_no_curve(tmp_path: Path) -> None:
    assert cost_curve(audit_of(tmp_path, rows_of(UPLIFTS)).summaries, student=STUDENT) is None


def test_cost_curve_is_on_the_page_and_budgets_in_the_table(tmp_path: Path) -> None:
    page = render(several_budgets(tmp_path)).replace("<wbr>", "")
    assert '<h2 id="cost">' in page
    assert '<a href="#cost">' in page
    assert "soft_label, 500 images" in page
    assert '<h2 id="cost">' not in render(audit_of(tmp_path, rows_of(UPLIFTS)))


def test_line_has_a_colour_and_a_mark_of_its_own(tmp_path: Path) -> None:
    names = [f"list{number}" for number in range(8)]
    rows = rows_of({name: {"soft_label": 3.0} for name in names})
    rows += [row(name, "soft_label", s, 60.0, budget=100) for name in names for s in range(3)]
    curve = cost_curve(audit_of(tmp_path, rows).summaries, student=STUDENT)
    assert curve is not None
    swatches = [line.figure for line in curve.lines[:6]]
    assert len(set(swatches)) == 6


def test_training_without_the_api_is_drawn_on_as_many_images(tmp_path: Path) -> None:
    found = list(several_budgets(tmp_path).report.rows)
    found += [row("none", "no_api", seed, 40.0, budget=100) for seed in range(3)]
    curve = cost_curve(audit_of(tmp_path, found).summaries, student=STUDENT)
    assert curve is not None
    assert "no API on 100 images: 40.0 %; no API on 1,000 images: 70.0 %" in curve.text


def test_two_accounts_are_drawn_at_the_sum_of_their_queries(tmp_path: Path) -> None:
    found = list(several_budgets(tmp_path).report.rows)
    for budget, queries in ((500, 1000), (None, 2000)):
        found += [
            row("open", "collusion[partner=x]", s, 74.0, budget=budget, queries=queries)
            for s in range(3)
        ]
    found += [row("none", "no_api", seed, 40.0, budget=100) for seed in range(3)]
    summaries = audit_of(tmp_path, found).summaries
    best = best_by_budget(summaries, "open")
    assert {queries: s.attack.partition("[")[0] for queries, s in best.items()} == {
        100: "soft_label",
        500: "soft_label",
        1000: "collusion",
        2000: "collusion",
        2_000_000: "data_free",
    }
    curve = cost_curve(summaries, student=STUDENT)
    assert curve is not None
    assert "open at 1,000 queries: 74.0 % by collusion[partner=x]" in curve.text
    assert "no API on 1,000 images: 70.0 %" in curve.text


def test_a_smaller_budget_is_never_the_headline(tmp_path: Path) -> None:
    rows = rows_of(UPLIFTS) + [
        row("open", "label_only", seed, 60.0, budget=100, uplift=30.0) for seed in range(3)
    ]
    audit = audit_of(tmp_path, rows)
    assert (audit.best["open"].attack, audit.best["open"].budget) == ("soft_label", None)
    broken = [r.model_copy(update={"finite": False}) if r.budget else r for r in rows]
    assert gate_faults(audit_of(tmp_path, broken), max_uplift=5) == ()
