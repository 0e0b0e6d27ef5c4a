"""Two audits beside each other: refused unless alike, and changes beyond their interval flagged."""

from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from typer.testing import CliRunner

from audit_results import audit_of, row, rows_of
from stingy_attacker_eval.cli import app
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.ci_gate import gate_faults
from stingy_attacker_eval.report.comparison import Change, compare_audits
from stingy_attacker_eval.report.html import render_comparison
from stingy_attacker_eval.results import Row

RUN = CliRunner()


def made(folder: Path, *, config: dict[str, Any] | None = None, **uplifts: float) -> Audit:
    folder.mkdir(exist_ok=True)
    rows = rows_of({name: {"label_only": 0.1, "soft_label": up} for name, up in uplifts.items()})
    return audit_of(folder, rows, config=config)


def test_clear_changes_are_flagged_worst_first(tmp_path: Path) -> None:
    before = made(tmp_path / "a", same=2.0, better=5.0, worse=1.0)
    after = made(tmp_path / "b", same=2.1, better=1.0, worse=5.0)
    found = compare_audits(before, after)
    assert [(pair.after.endpoint.name, pair.change) for pair in found.pairs] == [
        ("worse", Change.MORE),
        ("better", Change.LESS),
        ("same", Change.NONE),
    ]
    (worse,) = found.regressions
    assert worse.delta == pytest.approx(4.0)
    errors = [side.uplift.error or 0.0 for side in (worse.before, worse.after)]
    assert worse.error == pytest.approx((errors[0] ** 2 + errors[1] ** 2) ** 0.5)


def test_E5_change_within_its_interval_is_no_regression(tmp_path: Path) -> None:
    before = made(tmp_path / "a", open=2.0)
    error = compare_audits(before, before).pairs[0].error
    freedom = before.uplift(before.best["open"]).freedom
    assert error is not None
    assert freedom is not None
    reach = float(stats.t.ppf(0.975, 2 * freedom))  # two errors, of this freedom each
    for factor, change in ((reach - 0.1, Change.NONE), (reach + 0.1, Change.MORE)):
        after = made(tmp_path / "b", open=2.0 + factor * error)
        assert compare_audits(before, after).pairs[0].change is change


def changes(tmp_path: Path, before: list[Row], after: list[Row]) -> list[Change]:
    audits = [audit_of(tmp_path, rows) for rows in (before, after)]
    return [pair.change for pair in compare_audits(*audits).pairs]


def test_absent_attack_is_no_improvement(tmp_path: Path) -> None:
    whole = rows_of({"open": {"label_only": 0.1, "soft_label": 6.0}})
    broken = [r.model_copy(update={"finite": r.attack != "soft_label"}) for r in whole]
    one_broke = [
        r.model_copy(update={"finite": (r.attack, r.seed) != ("soft_label", 1)}) for r in whole
    ]
    absent = [r for r in whole if r.attack != "soft_label"]
    for after in (broken, absent):
        assert changes(tmp_path, whole, after) == [Change.UNLIKE]
        assert changes(tmp_path, after, whole) == [Change.UNLIKE]
    assert changes(tmp_path, whole, one_broke) == [Change.NONE]
    less = rows_of({"open": {"label_only": 0.1, "soft_label": 1.0}})
    assert changes(tmp_path, whole, less) == [Change.LESS]
    more = rows_of({"open": {"label_only": 0.1, "soft_label": 9.0, "subset_kl": 0.0}})
    assert changes(tmp_path, whole, more) == [Change.MORE]


def test_attackers_that_own_the_same_keep_their_names(tmp_path: Path) -> None:
    attackers = [{"name": "a"}, {"name": "b", "accounts": 1}]

    def rows(gains: dict[str, float]) -> list[Row]:
        return [
            r.model_copy(update={"attacker": name})
            for name, gain in gains.items()
            for r in rows_of({"open": {"soft_label": gain}})
        ]

    before = audit_of(tmp_path, rows({"a": 1.0, "b": 2.0}), config={"attackers": attackers})
    after = audit_of(tmp_path, rows({"b": 2.0, "a": 9.0}), config={"attackers": attackers[::-1]})
    found = compare_audits(before, after).pairs
    assert [(pair.attacker.rpartition(" ")[2], pair.change) for pair in found] == [
        ("a", Change.MORE),
        ("b", Change.NONE),
    ]


def test_E5_students_equal_to_the_baseline_gain_nothing(tmp_path: Path) -> None:
    accuracies = (71.37, 69.91, 70.13)  # their mean less itself is not 0 in every order
    rows = [row("none", "no_api", seed, each) for seed, each in enumerate(accuracies)]
    base = sum(accuracies) / 3
    rows += [
        row("open", "label_only", seed, each, uplift=each - base + 2e-15)
        for seed, each in enumerate(accuracies)
    ]
    audit = audit_of(tmp_path, rows)
    found = audit.uplift(audit.best["open"])
    assert found.mean == 0.0
    assert not found.is_clear
    assert not gate_faults(audit, max_uplift=1.0)
    assert changes(tmp_path, rows, rows) == [Change.NONE]


def test_one_seed_shows_no_change(tmp_path: Path) -> None:
    rows = [row("none", "no_api", 0, 70.0), row("open", "soft_label", 0, 75.0)]
    before = audit_of(tmp_path, rows, config={"seeds": [0]})
    after = audit_of(tmp_path, [rows[0], row("open", "soft_label", 0, 79.0)], config={"seeds": [0]})
    (pair,) = compare_audits(before, after).pairs
    assert (pair.change, pair.error) == (Change.UNKNOWN, None)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"epochs": 6}, "other epochs (5 and 6)"),
        ({"test_digest": "1"}, "other test images"),
        ({"train_labels_digest": "1"}, "other training labels"),
        ({"students": ["resnet8"]}, "other students (cnn_tiny and resnet8)"),
        ({"lr": 0.2}, "other lr (0.1 and 0.2)"),
    ],
)
def test_other_data_students_or_training_are_refused(
    tmp_path: Path, config: dict[str, Any], fault: str
) -> None:
    before = made(tmp_path / "a", open=2.0)
    after = made(tmp_path / "b", config=config, open=2.0)
    with pytest.raises(AuditError) as refused:
        compare_audits(before, after)
    assert str(refused.value) == (
        f"expected two audits of the same data, students and training, got {fault}: run one of "
        "them again with the other's protocol"
    )


def test_every_difference_is_named_at_once(tmp_path: Path) -> None:
    before = made(tmp_path / "a", open=2.0)
    after = made(tmp_path / "b", config={"epochs": 6, "train_digest": "1"}, open=2.0)
    with pytest.raises(AuditError, match="other training images; other epochs"):
        compare_audits(before, after)


def test_audits_without_a_common_endpoint_are_refused(tmp_path: Path) -> None:
    before, after = made(tmp_path / "a", open=2.0), made(tmp_path / "b", shut=2.0)
    with pytest.raises(
        AuditError, match=r"got open \(the true labels of all its images\) and shut"
    ):
        compare_audits(before, after)


def test_endpoints_of_one_audit_alone_are_named(tmp_path: Path) -> None:
    before, after = made(tmp_path / "a", open=2.0, old=1.0), made(tmp_path / "b", open=2.0, new=1.0)
    page = render_comparison(compare_audits(before, after))
    assert "Only in A: old." in page
    assert "Only in B: new." in page


def test_other_possessions_are_not_the_same_attacker(tmp_path: Path) -> None:
    before = made(tmp_path / "a", open=2.0)
    few = {"attackers": [{"name": "owner", "labelled": 0.5}]}
    after = made(tmp_path / "b", config=few, open=2.0)
    with pytest.raises(AuditError, match="for the same attacker"):
        compare_audits(before, after)


def test_command_prints_the_changes_and_writes_the_page(tmp_path: Path) -> None:
    made(tmp_path / "a", open=1.0)
    made(tmp_path / "b", open=5.0)
    result = RUN.invoke(app, ["audit", "compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert result.exit_code == 0
    assert "1 regression at 95 % in 1 comparison." in result.stdout
    page = (tmp_path / "b" / "compare.html").read_text()
    assert '<p class="lead">1 endpoint</p>' in page
    other = tmp_path / "page.html"
    same = ["audit", "compare", str(tmp_path / "a"), str(tmp_path / "a"), "--out", str(other)]
    assert "No regressions" in RUN.invoke(app, same).stdout
    assert other.exists()


def test_command_refuses_unlike_audits_in_one_line(tmp_path: Path) -> None:
    made(tmp_path / "a", open=1.0)
    made(tmp_path / "b", config={"epochs": 6}, open=1.0)
    result = RUN.invoke(app, ["audit", "compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert result.exit_code == 2
    assert "other epochs (5 and 6)" in result.stderr
    assert not (tmp_path / "b" / "compare.html").exists()
