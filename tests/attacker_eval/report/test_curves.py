"""Pictures of budgets and of the frontier: what is drawn, and what is left out."""

from pathlib import Path

from audit_results import STUDENT, audit_of, endpoint_of, row, rows_of, utility_of
from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.ci_gate import gate_faults
from stingy_attacker_eval.report.curves import best_by_budget, draw_budgets, draw_frontier, letters
from stingy_attacker_eval.report.html import render

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
    curve = draw_budgets(several_budgets(tmp_path).summaries, student=STUDENT)
    assert curve is not None
    assert "open at 500 queries: 68.0 % by soft_label" in curve
    assert "data_free" not in curve


def test_only_the_whole_transfer_set_draws_no_curve(tmp_path: Path) -> None:
    assert draw_budgets(audit_of(tmp_path, rows_of(UPLIFTS)).summaries, student=STUDENT) is None


def test_smaller_budgets_are_in_the_table_but_not_in_the_bars(
    tmp_path: Path,
) -> None:
    page = render(several_budgets(tmp_path))
    assert "Over the query budget" in page
    bars = page[page.index("Students by defence and attack") :]
    assert "open, soft_label: 73.0 %" in bars
    assert "53.0" not in bars[: bars.index("</svg>")]


def test_point_without_calibration_is_missing_in_that_panel_only(tmp_path: Path) -> None:
    endpoints = [endpoint_of("open", utility=utility_of(ece=None))]
    audit = audit_of(tmp_path, rows_of(UPLIFTS), endpoints)
    picture = draw_frontier(audit.points)
    assert "A open: best uplift +3.0 points" in picture
    assert "calibration" not in picture
    assert "bytes an answer" in picture
    page = render(audit)
    assert "What clients keep against what attackers get" in page
    assert '<td class="n">24</td>' in page


def test_endpoints_without_a_best_attack_have_no_frontier(tmp_path: Path) -> None:
    broken = [r.model_copy(update={"finite": r.endpoint == "none"}) for r in rows_of(UPLIFTS)]
    assert "What clients keep" not in render(audit_of(tmp_path, broken))


def test_points_have_letters_of_their_own() -> None:
    assert letters(3) == ("A", "B", "C")
    assert len(set(letters(60))) == 60


def test_training_without_the_api_is_drawn_on_as_many_images(tmp_path: Path) -> None:
    found = list(several_budgets(tmp_path).report.rows)
    found += [row("none", "no_api", seed, 40.0, budget=100) for seed in range(3)]
    curve = draw_budgets(audit_of(tmp_path, found).summaries, student=STUDENT)
    assert curve is not None
    assert "no API on 100 images: 40.0 %; no API on 1000 images: 70.0 %" in curve


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
    curve = draw_budgets(summaries, student=STUDENT)
    assert curve is not None
    assert "open at 1000 queries: 74.0 % by collusion[partner=x]" in curve
    assert "no API on 1000 images: 70.0 %" in curve  # all there are, however often each is asked


def test_a_smaller_budget_is_never_the_headline(tmp_path: Path) -> None:
    rows = rows_of(UPLIFTS) + [
        row("open", "label_only", seed, 60.0, budget=100, uplift=30.0) for seed in range(3)
    ]
    audit = audit_of(tmp_path, rows)
    assert (audit.best["open"].attack, audit.best["open"].budget) == ("soft_label", None)
    broken = [r.model_copy(update={"finite": False}) if r.budget else r for r in rows]
    assert gate_faults(audit_of(tmp_path, broken), max_uplift=5) == ()
