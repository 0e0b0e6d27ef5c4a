"""The answer to whether a list teaches more than labels, by the attack that reads the list."""

import json
from pathlib import Path

import numpy as np
import pytest

from audit_results import audit_of, endpoint_of, row, rows_of, utility_of
from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.exporters import as_json, as_markdown
from stingy_attacker_eval.report.html import render
from stingy_attacker_eval.report.label_only_baseline import Outcome
from stingy_attacker_eval.report.verdicts import headlines
from stingy_attacker_eval.results import NO_ENDPOINT

CONTROL = {"label_only": 0.1, "soft_label": 3.0}


def headline(audit: Audit) -> str:
    (sentence,) = headlines(audit)
    return sentence


def test_a_white_box_attack_is_never_the_best(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"stingy": {"label_only": 0.1, "dafl[white-box]": 8.0}}))
    assert audit.best["stingy"].attack == "label_only"
    assert "dafl" not in headline(audit)
    assert not audit.label_baselines


def test_a_list_that_teaches_no_more_than_labels_is_named(tmp_path: Path) -> None:
    audit = audit_of(
        tmp_path,
        rows_of({"open": CONTROL, "ranks": {"label_only": 0.1, "rank_distillation": 0.0}}),
    )
    outcomes = {floor.endpoint: floor.outcome for floor in audit.label_baselines}
    assert outcomes == {"open": Outcome.MORE, "ranks": Outcome.NO_MORE}
    ranks = audit.label_baselines[1]
    assert ranks.gap.mean == pytest.approx(-0.1)
    assert (ranks.margin, ranks.reader.attack) == (1.0, "rank_distillation")
    assert ranks.p_no_more <= 0.05 < ranks.p_more
    said = headline(audit)
    assert "gained less than 1 point more than labels alone (one-sided, 5 % over all lists)" in said
    assert said.endswith(": ranks (first five 95.0 %).")
    assert ranks.text.endswith(
        f"by rank_distillation over label_only: less than 1 more, power {ranks.power:.2f}"
    )
    assert "On 1 of 1 compared endpoints that give a list, the best attack on the list" in said


def test_E7_undecided_open_list_is_no_list_that_taught_more(tmp_path: Path) -> None:
    rows = rows_of({"open": CONTROL, "nasty": {"label_only": 0.1, "soft_label": 0.6}})
    endpoints = [endpoint_of(name, policy="open") for name in ("open", "nasty")]
    audit = audit_of(tmp_path, rows, endpoints, {"margin": 0.3})
    outcomes = [item.outcome for item in audit.label_baselines]
    assert outcomes == [Outcome.MORE, Outcome.UNCLEAR]
    assert "Every list" not in headline(audit)
    assert headline(audit).endswith("Undecided: nasty (first five 95.0 %).")


def test_E7_list_that_taught_more_is_named_without_a_control(tmp_path: Path) -> None:
    rows = rows_of({"open": {"label_only": 0.1, "soft_label": 0.2}, "list": CONTROL})
    audit = audit_of(tmp_path, rows, [endpoint_of(name) for name in ("open", "list")])
    said = headline(audit)
    assert "no list taught more" not in audit.label_baselines[0].text
    assert "Shown to teach more than labels alone: list." in said
    assert "does not decide whether" not in said


def test_attack_that_could_not_run_is_named_beside_the_verdict(tmp_path: Path) -> None:
    skipped = [
        {"endpoint": "ranks", "attack": "inversion", "reason": "needs scores"},
        {"endpoint": "ranks", "attack": "consistent", "reason": "needs answers", "beyond": True},
    ]
    rows = rows_of({"open": CONTROL, "ranks": {"label_only": 0.1, "rank_distillation": 0.0}})
    said = headline(audit_of(tmp_path, rows, skipped=skipped))
    assert "; inversion could not run)" in said
    assert "consistent" not in said


def test_best_attack_on_labels_does_not_stand_for_the_list(tmp_path: Path) -> None:
    uplifts = {"open": CONTROL, "ranks": {"two_labels": 2.0, "label_only": 0.1, "paper_kd": 1.9}}
    ranks = audit_of(tmp_path, rows_of(uplifts)).label_baselines[1]
    assert (ranks.reader.attack, ranks.baseline.attack) == ("paper_kd", "two_labels")
    assert ranks.gap.mean == pytest.approx(-0.1)


def test_wider_margin_and_its_power_are_stated(tmp_path: Path) -> None:
    rows = rows_of({"open": CONTROL, "ranks": {"label_only": 0.1, "soft_label": 0.3}})
    narrow, wide = (
        audit_of(tmp_path, rows, config={"margin": margin}).label_baselines[1]
        for margin in (0.3, 2.0)
    )
    assert (narrow.outcome, wide.outcome) == (Outcome.UNCLEAR, Outcome.NO_MORE)
    assert narrow.power < 0.5 < wide.power
    assert narrow.text.endswith(f": undecided, power {narrow.power:.2f}")
    assert f"less than 2 more, power {wide.power:.2f}" in wide.text


def test_many_lists_need_a_clearer_gap_than_one(tmp_path: Path) -> None:
    def outcome(lists: int) -> Outcome:
        # Each list has students of its own, and only the first a gap.
        rows = rows_of({"open": CONTROL, "list0": {"label_only": 0.1, "soft_label": 1.2}})
        random = np.random.default_rng(0)
        rows += [
            row(f"list{number}", attack, seed, 70.1 + 0.3 * float(random.standard_normal()))
            for number in range(1, lists)
            for attack in ("label_only", "soft_label")
            for seed in range(3)
        ]
        found = {each.endpoint: each for each in audit_of(tmp_path, rows).label_baselines}
        return found["list0"].outcome

    assert outcome(1) is Outcome.MORE
    assert outcome(40) is not Outcome.MORE


def test_equal_comparisons_count_as_one_test(tmp_path: Path) -> None:
    ranks = {"label_only": 0.1, "soft_label": 0.8}
    few = audit_of(tmp_path, rows_of({"open": CONTROL, "a": ranks}))
    many = audit_of(tmp_path, rows_of({"open": CONTROL, **{name: ranks for name in "abcdef"}}))
    assert many.label_baselines[1].p_more == pytest.approx(few.label_baselines[1].p_more)
    assert many.label_baselines[1].power == pytest.approx(few.label_baselines[1].power)


def test_baseline_may_be_from_endpoints_with_equal_labels(tmp_path: Path) -> None:
    uplifts = {
        name: {"label_only": 0.1, "sweep[tau=1,alpha=0.5]": uplift}
        for name, uplift in (("one", 2.0), ("list", 2.1))
    }
    rows = rows_of(uplifts)

    def text(**one: str) -> str:
        endpoints = [
            endpoint_of("one", support=1, **one),
            endpoint_of("list", utility=utility_of(), labels="a"),
        ]
        (floor,) = audit_of(tmp_path, rows, endpoints).label_baselines
        return floor.text

    assert "by sweep[tau=1,alpha=0.5] over sweep[tau=1,alpha=0.5] on one" in text(labels="a")
    assert text(labels="b") == "labels alone were not tried in the same way"  # of another teacher
    assert text() == "labels alone were not tried in the same way"


def test_shared_student_is_the_endpoints_own_baseline(tmp_path: Path) -> None:
    uplifts = {"one": {"two_labels": 0.5}, "list": {"two_labels": 0.5, "paper_kd": 0.0}}
    rows = rows_of(uplifts)
    endpoints = [endpoint_of("one", support=1, labels="a"), endpoint_of("list", labels="a")]
    (floor,) = audit_of(tmp_path, rows, endpoints).label_baselines
    assert (floor.baseline.endpoint, floor.reader.attack) == ("list", "paper_kd")
    assert "by paper_kd over two_labels" in floor.text


def test_where_nothing_wins_the_report_says_so(tmp_path: Path) -> None:
    audit = audit_of(
        tmp_path, rows_of({"open": CONTROL, "ranks": {"label_only": 0.1, "soft_label": 2.0}})
    )
    said = headline(audit)
    assert "Every list of this audit taught more than labels alone." in said
    assert "The closest, ranks, taught +1.9 points more (soft_label)" in said


def test_audit_without_a_measured_leak_decides_nothing(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"ranks": {"label_only": 0.1, "soft_label": 0.0}}))
    (floor,) = audit.label_baselines
    assert floor.outcome is Outcome.UNPROVEN
    assert floor.gap.p_below(floor.margin) < 0.05
    assert "does not decide whether a list teaches more than labels alone: nowhere" in headline(
        audit
    )
    for text in (render(audit), as_markdown(audit)):
        assert "undecided: no list taught more" in text
        assert "less than 1 more" not in text
    (found,) = json.loads(as_json(audit))["attackers"][0]["lists"]
    assert found["no_more_than_labels"] is False


def test_list_without_leak_proves_nothing_if_open_has_none(tmp_path: Path) -> None:
    no_leak = {"label_only": 0.1, "soft_label": 0.0}
    uplifts = {"open": no_leak, "ranks": CONTROL, "label_like": no_leak}
    said = headline(audit_of(tmp_path, rows_of(uplifts)))
    assert "Shown to teach more than labels alone: ranks. Of other lists this audit decides" in said
    assert "nothing, because that of the open endpoint was not shown to." in said


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    rows = [r for r in rows_of({"open": CONTROL}) if r.seed == 0]
    audit = audit_of(tmp_path, rows, config={"seeds": [0]})
    assert audit.label_baselines[0].text == "+3.3 (one seed) by soft_label over no_api"
    assert "because one seed gives no error" in headline(audit)


def test_endpoints_without_a_useful_list_are_not_compared(tmp_path: Path) -> None:
    rows = rows_of({name: CONTROL for name in ("label", "useless", "list")})
    endpoints = [
        endpoint_of("label", support=1),
        endpoint_of("useless", utility=utility_of(top1=80.0, top5=80.0)),
        endpoint_of("list", utility=utility_of()),
    ]
    floors = audit_of(tmp_path, rows, endpoints).label_baselines
    assert [floor.endpoint for floor in floors] == ["list"]


def test_lists_of_a_teacher_that_is_always_right_are_compared(tmp_path: Path) -> None:
    always = utility_of(top1=100.0, top5=100.0)
    endpoints = [
        endpoint_of("label", support=1, utility=always),
        endpoint_of("list", support=5, utility=always),
    ]
    rows = rows_of({name: CONTROL for name in ("label", "list")})
    floors = audit_of(tmp_path, rows, endpoints).label_baselines
    assert [floor.endpoint for floor in floors] == ["list"]


def test_list_without_attack_on_labels_is_not_compared(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"open": {"soft_label": 3.0}}))
    assert not audit.label_baselines
    assert "Not compared with labels alone: open. Both sides" in headline(audit)


def test_labels_are_compared_at_the_budget_of_the_best_attack(tmp_path: Path) -> None:
    rows = [row("open", "label_only", seed, 60.0, budget=100) for seed in range(3)]
    rows += rows_of({"open": CONTROL})
    assert audit_of(tmp_path, rows).label_baselines[0].gap.mean == pytest.approx(2.9)


def test_no_api_is_part_of_the_label_only_baseline(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"ranks": {"label_only": -1.0, "soft_label": 1.0}}))
    assert audit.label_baselines[0].baseline.attack == "no_api"
    assert audit.label_baselines[0].gap.mean == pytest.approx(1.0)


@pytest.mark.parametrize("attack", ["paper_kd", "a_plug_in_that_is_not_installed"])
def test_true_labels_are_never_compared_with_labels_without(tmp_path: Path, attack: str) -> None:
    uplifts = {"open": CONTROL, "ranks": {"label_only": 0.1, attack: 0.9}}
    audit = audit_of(tmp_path, rows_of(uplifts))
    assert [floor.outcome for floor in audit.label_baselines] == [Outcome.MORE, Outcome.UNTRIED]
    said = headline(audit)
    assert "Every list of this audit that was compared taught more than labels alone" in said
    assert "The closest, open" in said
    assert "Not compared with labels alone: ranks. Both sides" in said


def test_true_labels_are_compared_with_two_labels(tmp_path: Path) -> None:
    uplifts = {"open": CONTROL, "ranks": {"label_only": 0.1, "two_labels": 0.5, "paper_kd": 2.9}}
    floor = audit_of(tmp_path, rows_of(uplifts)).label_baselines[1]
    assert (floor.outcome, floor.baseline.attack) == (Outcome.MORE, "two_labels")
    assert floor.gap.mean == pytest.approx(2.4)


def test_neither_more_nor_less_is_undecided(tmp_path: Path) -> None:
    uplifts = {"open": CONTROL, "ranks": {"label_only": 0.1, "soft_label": 0.55}}
    audit = audit_of(tmp_path, rows_of(uplifts))
    assert audit.label_baselines[1].outcome is Outcome.UNCLEAR
    said = headline(audit)
    assert "Undecided: ranks (first five 95.0 %)." in said
    assert "Every list" not in said


def test_common_effect_of_a_seed_is_no_error_of_a_difference(tmp_path: Path) -> None:
    shifts = (-2.0, 0.0, 2.0)
    noise = (0.1, -0.1, 0.0)
    rows = [row(NO_ENDPOINT, "no_api", seed, 69.0 + shifts[seed]) for seed in range(3)]
    rows += [row("ranks", "label_only", seed, 70.0 + shifts[seed]) for seed in range(3)]
    rows += [
        row("ranks", "soft_label", seed, 74.0 + shifts[seed] + noise[seed]) for seed in range(3)
    ]
    assert audit_of(tmp_path, rows).label_baselines[0].gap.error == pytest.approx(0.1 / 3**0.5)
    # One seed is missing on one side: two means apart.
    assert audit_of(tmp_path, rows[:-1]).label_baselines[0].gap.error == pytest.approx(
        (1.8**2 / 2 / 2 + 2.0**2 / 3) ** 0.5
    )


def test_true_labels_beside_labels_need_them_beside_the_list(tmp_path: Path) -> None:
    def outcome(**more: float) -> Outcome:
        ranks = {"label_only": 0.1, "two_labels": 0.5, "soft_label": 0.4, **more}
        return (
            audit_of(tmp_path, rows_of({"open": CONTROL, "ranks": ranks}))
            .label_baselines[1]
            .outcome
        )

    assert outcome() is Outcome.UNTRIED
    assert outcome(paper_kd=0.3) is not Outcome.UNTRIED


def test_a_list_that_no_attack_read_is_not_compared(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"open": CONTROL, "ranks": {"label_only": 0.1}}))
    assert [floor.endpoint for floor in audit.label_baselines] == ["open"]
    assert "Not compared with labels alone: ranks. Both sides" in headline(audit)


def test_more_answers_are_never_compared_with_fewer_labels(tmp_path: Path) -> None:
    rows = rows_of({"open": CONTROL, "ranks": {"label_only": 0.1}})
    rows += [row("ranks", "augmentation_union", s, 72.0 + s, queries=4000) for s in range(3)]
    assert audit_of(tmp_path, rows).label_baselines[1].outcome is Outcome.UNTRIED


def test_more_labels_are_never_compared_with_fewer_lists(tmp_path: Path) -> None:
    label = "consistent[attack=label_only]"
    rows = rows_of({"open": CONTROL, "ranks": {"soft_label": 0.1}})
    rows += [row("ranks", label, s, 72.0 + s / 9, queries=4000) for s in range(3)]
    attacks = {"no_api": {}, "label_only": {}, "soft_label": {}, label: {"attack": "label_only"}}
    ranks = audit_of(tmp_path, rows, config={"attacks": attacks}).label_baselines[1]
    assert (ranks.outcome, ranks.baseline.attack) == (Outcome.UNTRIED, label)


@pytest.mark.parametrize(
    ("attack", "settings", "uses"),
    [
        ("sweep[tau=1,alpha=1]", {"tau": 1.0, "alpha": 1.0}, False),
        ("sweep[tau=1,alpha=0.5]", {"tau": 1.0, "alpha": 0.5}, True),
        ("consistent", {"attack": "soft_label"}, False),
    ],
)
def test_settings_decide_whether_true_labels_are_used(
    tmp_path: Path, attack: str, settings: dict[str, object], uses: bool
) -> None:
    rows = rows_of({"open": {"label_only": 0.1, attack: 3.0}})
    attacks = {"no_api": {}, "label_only": {}, attack: settings}
    (floor,) = audit_of(tmp_path, rows, config={"attacks": attacks}).label_baselines
    assert floor.outcome is (Outcome.UNTRIED if uses else Outcome.MORE)


def test_no_endpoint_with_a_list_is_passed_over_in_silence(tmp_path: Path) -> None:
    rows = rows_of({"open": CONTROL, "ranks": {"label_only": 0.1, "soft_label": 2.0}})
    rows += [row("broken", "soft_label", s, 10.0, finite=False) for s in range(3)]
    rows += [row("bare", "soft_label", s, 79.0) for s in range(3)]
    rows += [row("alone", "label_only", 0, 70.0), row("alone", "soft_label", 0, 79.9)]
    said = headline(audit_of(tmp_path, rows))
    assert "Every list of this audit that was compared taught more than labels alone" in said
    assert "Not compared with labels alone: broken, bare, alone. Both sides" in said
