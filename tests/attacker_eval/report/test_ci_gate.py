"""The gate: what passes, and every way of not passing."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from audit_results import audit_of, endpoint_config, endpoint_of, rows_of
from stingy_attacker_eval.report.ci_gate import gate_cases, gate_faults, gate_lines, junit_xml

SKIPPED = {
    "endpoint": "stingy",
    "attack": "soft_label",
    "reason": "needs scores, and there are none",
}
ROWS = rows_of({"open": {"label_only": 0.1, "soft_label": 3.0}, "stingy": {"label_only": 0.2}})


def test_best_attack_is_judged_by_its_upper_bound(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"open": {"paper_kd": -9.0, "soft_label": 3.0}}))
    upper = audit.uplift(audit.best["open"]).upper
    assert upper is not None
    assert upper > 3.2
    assert gate_faults(audit, max_uplift=upper) == ()
    (fault,) = gate_faults(audit, max_uplift=3.2)
    assert fault == (
        f"open: soft_label gained +3.0 ±0.3 points with cnn_tiny, at most +{upper:.2f} (95 %), "
        "more than 3.2"
    )


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_fewer_than_three_seeds_fail(tmp_path: Path, seeds: int) -> None:
    rows = [r for r in rows_of({"open": {"label_only": 0.1}}) if r.seed < seeds]
    audit = audit_of(tmp_path, rows, [endpoint_of("open")], config={"seeds": [*range(seeds)]})
    fault = gate_faults(audit, max_uplift=9.0)[0]
    assert fault == f"expected 3 seeds or more and an endpoint, got {seeds} and 1"


def test_every_attacker_is_judged_unless_some_are_named(tmp_path: Path) -> None:
    rows = rows_of({"open": {"label_only": 0.1}})
    rows += [
        r.model_copy(update={"attacker": "few", "uplift": 9.0 * (r.endpoint == "open")})
        for r in rows_of({"open": {"label_only": 9.0}})
    ]
    audit = audit_of(
        tmp_path, rows, config={"attackers": [{"name": "owner"}, {"name": "few", "labelled": 0.1}]}
    )
    (fault,) = gate_faults(audit, max_uplift=2.0)
    assert fault.startswith("few, open: label_only gained +9.0")
    assert gate_faults(audit, max_uplift=2.0, attackers=("owner",)) == ()
    assert [line.partition(":")[0] for line in gate_lines(audit)] == ["owner, open", "few, open"]
    (fault,) = gate_faults(audit, max_uplift=2.0, attackers=("fewer",))
    assert fault == "expected attackers of the audit (owner, few), got fewer"


def test_only_the_named_endpoints_are_watched(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, ROWS, skipped=[SKIPPED])
    assert len(gate_faults(audit, max_uplift=1.0)) == 1
    assert gate_faults(audit, max_uplift=1.0, endpoints=("stingy",)) == ()
    assert [line.partition(":")[0] for line in gate_lines(audit)] == ["open", "stingy", "stingy"]
    assert gate_lines(audit, endpoints=("open",)) == (
        "open: +3.0 ±0.5 points, at most +3.67 (95 %) (soft_label, cnn_tiny, 3 seeds)",
    )


def test_gate_lists_skipped_attacks_beside_the_compared(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, ROWS, skipped=[SKIPPED])
    assert gate_faults(audit, max_uplift=9.0) == ()
    assert gate_lines(audit, endpoints=("stingy",)) == (
        "stingy: +0.2 ±0.4 points, at most +0.68 (95 %) (label_only, cnn_tiny, 3 seeds)",
        "stingy: soft_label was not run: it needs scores, and there are none",
    )


def test_an_unknown_endpoint_is_a_fault(tmp_path: Path) -> None:
    (fault,) = gate_faults(audit_of(tmp_path, ROWS), max_uplift=9.0, endpoints=("sting",))
    assert fault == "expected endpoints of the audit (open, stingy), got sting"


def test_missing_run_fails_the_gate(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, ROWS)
    (fault,) = gate_faults(audit, max_uplift=9.0)
    assert fault.startswith("expected 15 runs, 3 are missing: stingy, soft_label, cnn_tiny, seed 0")


def test_a_run_that_could_not_be_made_is_not_missing(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, ROWS, skipped=[SKIPPED])
    assert gate_faults(audit, max_uplift=9.0) == ()


@pytest.mark.parametrize("number", [0, 5])
def test_a_broken_run_fails_the_baseline_among_them(tmp_path: Path, number: int) -> None:
    rows = rows_of({"open": {"label_only": 0.1}})
    rows[number] = rows[number].model_copy(update={"finite": False})
    (fault,) = gate_faults(audit_of(tmp_path, rows), max_uplift=9.0)
    assert fault.startswith("expected finite losses, 1 of 6 runs broke: ")


def test_only_broken_attacks_fail_the_gate(tmp_path: Path) -> None:
    rows = [
        r.model_copy(update={"finite": r.endpoint == "none"})
        for r in rows_of({"open": {"label_only": 0.1}})
    ]
    faults = gate_faults(audit_of(tmp_path, rows), max_uplift=9.0)
    assert faults[-1] == ("open: Broken: no attack of this suite could be run to a finite loss.")


def test_endpoint_without_runs_is_not_called_broken(tmp_path: Path) -> None:
    endpoints = [endpoint_of("open"), endpoint_of("shut")]
    audit = audit_of(tmp_path, rows_of({"open": {"label_only": 0.1}}), endpoints)
    assert gate_faults(audit, max_uplift=9.0)[-1] == "shut: Not run."


def test_endpoints_own_students_are_expected_by_the_gate(tmp_path: Path) -> None:
    own = [endpoint_config("open", students=["resnet8"])]
    audit = audit_of(tmp_path, rows_of({"open": {"label_only": 0.1}}), config={"endpoints": own})
    (fault,) = gate_faults(audit, max_uplift=9.0)
    assert fault.startswith("expected 9 runs, 3 are missing: open, label_only, resnet8")


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_that_is_no_number_fails(tmp_path: Path, threshold: float) -> None:
    audit = audit_of(tmp_path, rows_of({"open": {"label_only": 0.1}}))
    (fault,) = gate_faults(audit, max_uplift=threshold)
    assert "finite number" in fault


def test_a_white_box_attack_opens_no_gate_and_closes_none(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"open": {"label_only": 0.1, "dafl[white-box]": 9.0}}))
    assert gate_faults(audit, max_uplift=1.0) == ()


def test_a_title_names_the_defence(tmp_path: Path) -> None:
    rows = rows_of({"open": {"label_only": 5.0}})
    audit = audit_of(tmp_path, rows, [endpoint_of("open", defence="normal")])
    assert gate_faults(audit, max_uplift=1.0)[0].startswith("open (normal): ")


def test_cases_are_the_soundness_and_each_endpoint(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"open": {"label_only": 3.0}, "shut": {"label_only": 0.1}}))
    cases = gate_cases(audit, max_uplift=1.5)
    assert [(case.subject, len(case.faults)) for case in cases] == [
        ("every run is there and finite", 0),
        ("open", 1),
        ("shut", 0),
    ]
    assert gate_faults(audit, max_uplift=1.5) == cases[1].faults


def test_junit_has_a_failed_case_for_each_fault(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"open": {"label_only": 3.0}, "shut": {"label_only": 0.1}}))
    cases = gate_cases(audit, max_uplift=1.5)
    root = ET.fromstring(junit_xml(cases, title="a & b"))  # noqa: S314 - our own document
    (suite,) = root.findall("testsuite")
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("a & b", "3", "1")
    failed = [case for case in suite.findall("testcase") if case.find("failure") is not None]
    assert [case.get("name") for case in failed] == ["open"]
    failure = failed[0].find("failure")
    assert failure is not None
    assert failure.get("message") == cases[1].faults[0]


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        ({"max_uplift": float("nan")}, "the call"),
        ({"max_uplift": 1.0, "endpoints": ("no",)}, "the call"),
    ],
)
def test_junit_of_a_wrong_call_has_a_failure(
    tmp_path: Path, options: dict[str, Any], subject: str
) -> None:
    (case,) = gate_cases(audit_of(tmp_path, ROWS), **options)
    assert (case.subject, len(case.faults)) == (subject, 1)
    assert b'failures="1"' in junit_xml([case], title="t")
