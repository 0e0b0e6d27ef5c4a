"""Summaries of rows: means and spreads, and a broken attack never counts as protection."""

import pytest

from stingy_attacker_eval.results import (
    NO_ENDPOINT,
    Row,
    baseline_accuracy,
    best_attacks,
    summarise,
)


def row(
    attack: str,
    accuracy: float,
    *,
    seed: int = 0,
    endpoint: str = "stingy",
    finite: bool = True,
) -> Row:
    return Row(
        endpoint=endpoint,
        defence="stingy",
        attack=attack,
        student="cnn_tiny",
        seed=seed,
        queries=10,
        accuracy=accuracy,
        agreement=accuracy - 1,
        teacher_accuracy=99.0,
        uplift=accuracy - 50.0,
        finite=finite,
        seconds=1.0,
    )


def test_summary_has_mean_and_sample_spread() -> None:
    (summary,) = summarise([row("kd", 60.0), row("kd", 64.0, seed=1)])
    assert (summary.n, summary.accuracy_mean, summary.agreement_mean) == (2, 62.0, 61.0)
    assert summary.accuracy_spread == pytest.approx(8**0.5)
    assert (summary.uplift_mean, summary.uplift_spread) == (12.0, summary.accuracy_spread)


def test_summary_counts_queries_runs_and_gains() -> None:
    rows = [
        row("kd", 60.0).model_copy(update={"queries": 30}),
        row("kd", 40.0, seed=1).model_copy(update={"queries": 40}),
        row("kd", 90.0, seed=2, finite=False),
    ]
    (summary,) = summarise(rows)
    assert (summary.queries, summary.runs, summary.n, summary.gains) == (40, 3, 2, 1)


def test_budgets_are_summed_up_apart() -> None:
    rows = [
        row("kd", 60.0),
        row("kd", 50.0).model_copy(update={"budget": 5}),
        row("kd", 52.0).model_copy(update={"budget": 5}),
    ]
    assert [(s.budget, s.accuracy_mean) for s in summarise(rows)] == [(None, 60.0), (5, 51.0)]


@pytest.mark.parametrize(
    ("label", "white_box"),
    [("dafl[white-box]", True), ("dafl[white-box,tau=2]", True), ("a[b=white-boxes]", False)],
)
def test_white_box_attack_is_never_the_best(label: str, white_box: bool) -> None:
    summaries = summarise([row(label, 90.0), row("kd", 60.0)])
    assert summaries[0].white_box is white_box
    assert best_attacks(summaries)["stingy"].attack == ("kd" if white_box else label)


def test_summary_of_one_seed_has_no_spread() -> None:
    (summary,) = summarise([row("kd", 60.0)])
    assert summary.accuracy_spread is None


def test_broken_run_is_left_out_of_means_and_best_attack() -> None:
    summaries = summarise(
        [
            row("broken", 99.0, finite=False),
            row("half", 10.0, finite=False),
            row("half", 55.0, seed=1),
            row("kd", 54.0),
        ]
    )
    broken, half, _ = summaries
    assert (broken.n, broken.accuracy_mean, broken.all_finite) == (0, None, False)
    assert (half.n, half.accuracy_mean, half.all_finite) == (1, 55.0, False)
    assert best_attacks(summaries)["stingy"].attack == "half"


def test_endpoint_with_only_broken_attacks_has_no_best() -> None:
    assert best_attacks(summarise([row("kd", 60.0, finite=False)])) == {}


def test_best_attack_may_lose_but_is_never_the_baseline() -> None:
    rows = [row("no_api", 50.0, endpoint=NO_ENDPOINT), row("kd", 40.0), row("label_only", 49.0)]
    best = best_attacks(summarise(rows))
    assert {name: summary.attack for name, summary in best.items()} == {"stingy": "label_only"}


def test_baseline_is_the_mean_over_finite_seeds() -> None:
    rows = [
        row("no_api", 50.0, endpoint=NO_ENDPOINT),
        row("no_api", 52.0, endpoint=NO_ENDPOINT, seed=1),
        row("no_api", 1.0, endpoint=NO_ENDPOINT, seed=2, finite=False),
        row("kd", 90.0),
    ]
    assert baseline_accuracy(rows, "cnn_tiny") == 51.0
    assert baseline_accuracy(rows, "cnn_large") is None
