"""One point a policy, and the answer to whether a list teaches more than labels alone."""

from pathlib import Path

import pytest
from tests.attacker_eval.audits import audit_of, endpoint_of, kept, row, rows_of

from stingy_attacker_eval.findings import headline
from stingy_attacker_eval.frontier import floor_sentence, frontier, label_floors

CONTROL = {"label_only": 0.1, "soft_label": 3.0}


def test_a_point_is_what_clients_keep_and_what_the_best_attack_got(tmp_path: Path) -> None:
    rows = rows_of({"stingy": {"paper_kd": -9.0, "soft_label": 2.0}, "bare": {"soft_label": 1.0}})
    endpoints = [endpoint_of("stingy", utility=kept()), endpoint_of("bare")]
    (point,) = frontier(endpoints, audit_of(tmp_path, rows, endpoints).summaries)
    assert (point.endpoint, point.best.attack, point.utility.top5) == ("stingy", "soft_label", 95.0)


def test_a_white_box_attack_is_never_the_best(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"stingy": {"label_only": 0.1, "dafl[white-box]": 8.0}}))
    assert audit.best["stingy"].attack == "label_only"
    assert "dafl" not in headline(audit)
    assert not any(floor.gap for floor in audit.floors)


def test_a_list_that_teaches_no_more_than_labels_is_named(tmp_path: Path) -> None:
    audit = audit_of(
        tmp_path,
        rows_of({"open": CONTROL, "ranks": {"label_only": 0.1, "rank_distillation": 0.2}}),
    )
    held = {floor.endpoint: floor.holds for floor in audit.floors}
    assert held == {"open": False, "ranks": True}
    ranks = audit.floors[1]
    assert ranks.gap == pytest.approx(0.1)
    # Two standard errors of 0.3 / sqrt(3), added in squares.
    assert ranks.error == pytest.approx((2 * 0.3**2 / 3) ** 0.5)
    said = headline(audit)
    assert (
        "within one standard error: ranks (+0.1, standard error 0.2); that is 1 of 1 such endpoints"
        in said
    )
    assert "up to 0.5 points more (two standard errors) would have passed unseen" in said


def test_what_clients_of_such_a_list_keep_is_said_with_it(tmp_path: Path) -> None:
    rows = rows_of({"open": CONTROL, "ranks": {"label_only": 0.1}})
    endpoints = [endpoint_of(name, utility=kept()) for name in ("open", "ranks")]
    said = headline(audit_of(tmp_path, rows, endpoints))
    assert "ranks (top-1 80.0 %, first five 95.0 %; +0.0, standard error 0.2)" in said


def test_labels_alone_are_the_best_attack_on_who_sells_nothing_else(tmp_path: Path) -> None:
    uplifts = {"one": {"label_only": 0.1, "sweep": 2.0}, "list": {"label_only": 0.1, "sweep": 2.1}}
    rows = rows_of(uplifts)

    def gap(**one: str) -> float:
        endpoints = [
            endpoint_of("one", support=1, **one),
            endpoint_of("list", utility=kept(), labels="a"),
        ]
        (floor,) = label_floors(endpoints, audit_of(tmp_path, rows, endpoints).summaries)
        return floor.gap

    assert gap(labels="a") == pytest.approx(0.1)
    assert gap(labels="b") == pytest.approx(2.0)  # of another teacher
    assert gap() == pytest.approx(2.0)


def test_where_nothing_wins_the_report_says_so(tmp_path: Path) -> None:
    audit = audit_of(
        tmp_path, rows_of({"open": CONTROL, "ranks": {"label_only": 0.1, "soft_label": 0.9}})
    )
    said = floor_sentence(audit.floors)
    assert said.startswith("No policy of this audit gives more than a label without teaching more")
    assert "the closest, ranks, taught +0.8 points more (soft_label)" in said


def test_an_audit_without_a_leak_it_can_see_decides_nothing(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"ranks": {"label_only": 0.1, "soft_label": 0.2}}))
    assert all(floor.holds for floor in audit.floors)
    assert "cannot be told here" in floor_sentence(audit.floors)


def test_a_list_that_holds_means_nothing_where_everything_does_too(tmp_path: Path) -> None:
    uplifts = {"open": {"label_only": 0.1}, "ranks": CONTROL, "label_like": {"label_only": 0.1}}
    said = floor_sentence(audit_of(tmp_path, rows_of(uplifts)).floors)
    assert "cannot be told here: not even where everything leaves" in said


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    rows = [r for r in rows_of({"open": CONTROL}) if r.seed == 0]
    audit = audit_of(tmp_path, rows, config={"seeds": [0]})
    assert audit.floors[0].error is None
    assert "One seed" in floor_sentence(audit.floors)


def test_a_label_endpoint_and_one_whose_list_helps_nobody_are_not_asked(tmp_path: Path) -> None:
    rows = rows_of({name: CONTROL for name in ("label", "useless", "list")})
    endpoints = [
        endpoint_of("label", support=1),
        endpoint_of("useless", utility=kept(top1=80.0, top5=80.0)),
        endpoint_of("list", utility=kept()),
    ]
    floors = label_floors(endpoints, audit_of(tmp_path, rows, endpoints).summaries)
    assert [floor.endpoint for floor in floors] == ["list"]


def test_without_labels_alone_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"open": {"soft_label": 3.0}}))
    assert (audit.floors, floor_sentence(audit.floors)) == ((), "")


def test_labels_are_compared_at_the_budget_of_the_best_attack(tmp_path: Path) -> None:
    rows = [row("open", "label_only", seed, 60.0, budget=100) for seed in range(3)]
    rows += rows_of({"open": CONTROL})
    assert audit_of(tmp_path, rows).floors[0].gap == pytest.approx(2.9)
