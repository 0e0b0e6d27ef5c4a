"""The verdict tiles: what leaks, to which attacker, at what price; and no gain by chance."""

from pathlib import Path
from typing import Any

import pytest

from audit_results import audit_of, endpoint_of, row, rows_of
from stingy_attacker_eval.report.analysis import Audit, verdict
from stingy_attacker_eval.report.formatting import readable
from stingy_attacker_eval.report.html import render
from stingy_attacker_eval.report.tiles import Tile, tiles
from stingy_attacker_eval.report.verdicts import (
    AttackerVerdict,
    Kind,
    Mark,
    attacker_verdicts,
    headlines,
    worst_by_kind,
)
from stingy_attacker_eval.results import NO_ENDPOINT, Row


def only(audit: Audit) -> AttackerVerdict:
    (found,) = attacker_verdicts(audit)
    return found


def shown(audit: Audit) -> tuple[Tile, Tile, Tile]:
    return tiles(only(audit))


def attackers_of(*labelled: float) -> dict[str, Any]:
    return {"attackers": [{"name": f"a{n}", "labelled": share} for n, share in enumerate(labelled)]}


def copied(rows: list[Row], name: str, lift: float = 0.0) -> list[Row]:
    """Return the rows as another attacker's, whose uplifts are larger by `lift`."""
    return [
        r.model_copy(
            update={
                "attacker": name,
                "accuracy": r.accuracy - lift * (r.endpoint == NO_ENDPOINT),
                "uplift": r.uplift + lift * (r.endpoint != NO_ENDPOINT),
            }
        )
        for r in rows
    ]


def test_leak_is_a_share_of_the_gap_to_the_teacher(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"open": {"label_only": 0.1, "soft_label": 4.0}}))
    found = only(audit).worst
    assert found is not None
    assert found.gap == pytest.approx(10.0)
    assert found.share == pytest.approx(40.0)
    leaks, attacker, price = shown(audit)
    assert (leaks.title, leaks.lead, leaks.is_quiet) == (
        "Leaks",
        "40 % of the gap to your model",
        False,
    )
    assert f"+4.0 ±{2 * (found.uplift.error or 0):.1f} points from open" in leaks.text
    assert attacker.lead == "owns all true labels"
    assert "soft_label (" in attacker.text
    assert "Chosen out of 2 on the same seeds, which leans upwards." in attacker.text
    assert (price.lead, price.text) == ("1,000 queries", "your price for 1,000 queries")


@pytest.mark.parametrize(
    ("queries", "times"), [(1297, "1.297"), (10_000, "10"), (2_000_000_500, "2,000,000.5")]
)
def test_price_is_a_plain_number_of_any_size(tmp_path: Path, queries: int, times: str) -> None:
    rows = rows_of({"open": {"label_only": 0.1, "soft_label": 3.0}})
    rows = [r.model_copy(update={"queries": queries}) if r.queries else r for r in rows]
    _, _, price = shown(audit_of(tmp_path, rows))
    assert price.lead == f"{queries:,} queries"
    assert price.text == f"{times} times your price for 1,000 queries"


def test_E7_uplift_within_its_error_is_a_grey_tile(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"open": {"label_only": 0.1, "soft_label": 0.3}}))
    leaks, _, price = shown(audit)
    error = 2 * (only(audit).leaks[0].uplift.error or 0)
    assert leaks.lead == f"nothing measurable (±{error:.1f})"
    assert leaks.is_quiet
    assert price.text.endswith("for nothing measurable")
    (said,) = headlines(audit)
    assert "was not shown to gain anything over training without the API" in said
    assert " gains " not in said


def test_the_headline_takes_a_measured_uplift_before_a_larger(tmp_path: Path) -> None:
    rows = rows_of({"clear": {"soft_label": 2.0}})
    rows += [row("noisy", "soft_label", seed, 70.0 + lift) for seed, lift in ((0, 0.0), (1, 9.0))]
    worst = only(audit_of(tmp_path, rows)).worst
    assert worst is not None
    assert (worst.endpoint.name, worst.is_measured) == ("clear", True)


def test_E7_many_endpoints_need_a_clearer_uplift_than_one(tmp_path: Path) -> None:
    def is_measured(count: int) -> bool:
        rows = rows_of({"first": {"soft_label": 1.3}})
        rows += [
            row(f"other{n}", "soft_label", seed, 70.0 + lift * (1 + n / 10))
            for n in range(count)
            for seed, lift in enumerate((0.3, -0.3, 0.0))
        ]
        found = {leak.endpoint.name: leak for leak in only(audit_of(tmp_path, rows)).leaks}
        return found["first"].is_measured

    assert is_measured(1)
    assert not is_measured(40)


def test_one_seed_measures_nothing(tmp_path: Path) -> None:
    rows = [r for r in rows_of({"open": {"soft_label": 4.0}}) if r.seed == 0]
    leaks, *_ = shown(audit_of(tmp_path, rows, config={"seeds": [0]}))
    assert (leaks.lead, leaks.is_quiet) == ("not measurable: no error", True)
    assert "with one seed, which gives no error" in leaks.text


def test_baseline_of_one_finite_seed_is_named(tmp_path: Path) -> None:
    rows = [
        r.model_copy(update={"finite": r.endpoint != NO_ENDPOINT or r.seed == 0})
        for r in rows_of({"open": {"soft_label": 6.0}})
    ]
    audit = audit_of(tmp_path, rows)
    assert "its baseline without the API is finite with one seed" in headlines(audit)[0]
    assert "The baseline without the API is finite with one seed" in (
        verdict(audit, audit.endpoints[0]).remark
    )


def test_E7_lucky_seed_of_a_broken_attack_hides_no_gain(tmp_path: Path) -> None:
    rows = rows_of({"open": {"soft_label": 5.0, "label_only": 9.0}})
    broken = [
        r.model_copy(update={"finite": r.attack != "label_only" or r.seed == 0}) for r in rows
    ]
    found = only(audit_of(tmp_path, broken)).worst
    assert found is not None
    assert (found.best.attack, found.is_measured) == ("soft_label", True)
    # Where no other attack counts, its one seed is shown.
    alone = [r for r in broken if r.attack != "soft_label"]
    leaks, *_ = shown(audit_of(tmp_path, alone))
    assert (leaks.lead, leaks.is_quiet) == ("not measurable: no error", True)


def test_broken_attacks_are_nothing_to_report_and_no_protection(tmp_path: Path) -> None:
    rows = [
        r.model_copy(update={"finite": r.endpoint == NO_ENDPOINT})
        for r in rows_of({"open": {"soft_label": 4.0}})
    ]
    leaks, _, price = shown(audit_of(tmp_path, rows))
    assert (leaks.lead, leaks.is_quiet) == ("nothing to report", True)
    assert leaks.text.startswith("Broken: ")
    assert price.lead == "unknown"


def test_broken_baseline_makes_no_uplift(tmp_path: Path) -> None:
    rows = [
        r.model_copy(update={"finite": r.endpoint != NO_ENDPOINT})
        for r in rows_of({"open": {"soft_label": 4.0}})
    ]
    audit = audit_of(tmp_path, rows)
    assert not audit.best
    assert "no baseline without the API has a finite loss" in shown(audit)[0].text
    assert "no baseline without the API" in render(audit)


def test_teacher_worse_than_the_student_has_no_share(tmp_path: Path) -> None:
    rows = rows_of({"open": {"soft_label": 4.0}})
    audit = audit_of(tmp_path, rows, [endpoint_of("open", teacher_accuracy=60.0)])
    leaks, *_ = shown(audit)
    assert leaks.lead.startswith("+4.0 ±")
    assert "your model is no better than the attacker's own" in leaks.text
    assert "from open" in render(audit)


def test_verdict_is_by_the_kind_of_attacker_and_its_worst(tmp_path: Path) -> None:
    rows = rows_of({"open": {"label_only": 0.1, "soft_label": 3.0}})
    own = [r.model_copy(update={"attacker": "a0"}) for r in rows]
    every = own + copied(rows, "a1", 5.0) + copied(rows, "a2", 9.0) + copied(rows, "a3", 20.0)
    audit = audit_of(tmp_path, every, config=attackers_of(1.0, 0.05, 0.1, 0.0))
    found = worst_by_kind(attacker_verdicts(audit))
    assert [(item.kind, item.view.attacker.name) for item in found] == [
        (Kind.ALL, "a0"),
        (Kind.FEW, "a2"),
        (Kind.NONE, "a3"),
    ]
    page = render(audit)
    for kind in Kind:
        assert f'<p class="kind">{kind}<br>' in page


def test_marks_follow_the_comparison_with_labels(tmp_path: Path) -> None:
    control = {"label_only": 0.1, "soft_label": 3.0}
    rows = rows_of(
        {
            "open": control,
            "ranks": {"label_only": 0.1, "rank_distillation": -0.5},
            "near": {"label_only": 0.1, "soft_label": 0.45},
            "bare": {"soft_label": 0.5},
            "label": {"label_only": 0.1},
        }
    )
    endpoints = [endpoint_of(name) for name in ("open", "ranks", "near", "bare")]
    endpoints.append(endpoint_of("label", support=1))
    found = {
        leak.endpoint.name: leak.mark
        for leak in only(audit_of(tmp_path, rows, endpoints, {"margin": 0.7})).leaks
    }
    assert found == {
        "open": Mark.MORE,
        "ranks": Mark.NO_MORE,
        "near": Mark.UNCLEAR,
        "bare": Mark.UNCOMPARED,
        "label": Mark.LABELS,
    }


def test_list_without_leak_is_undecided_if_open_has_none(tmp_path: Path) -> None:
    quiet = {"label_only": 0.1, "soft_label": 0.0}
    audit = audit_of(tmp_path, rows_of({"open": quiet, "ranks": quiet}))
    assert {leak.mark for leak in only(audit).leaks} == {Mark.UNCLEAR}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain-name_1", "plain-name_1"),
        ("Kästchen ✓ 猫", "Kästchen ✓ 猫"),
        ("a\u202eb", "a<U+202E>b"),
        ("a\u200fb\u0007", "a<U+200F>b<U+0007>"),
        ("two\nlines", "two<U+000A>lines"),
    ],
)
def test_invisible_characters_of_a_name_are_spelt_out(text: str, expected: str) -> None:
    assert readable(text) == expected
