"""A finished audit as pages show it: its best attack, of the same policy and version."""

import json
from pathlib import Path

import pytest

from stingy_clients.documents.audit_report import AuditReport, read_audit_report
from stingy_clients.errors import ClientError
from try_pages import make_report, report_document

RESULTS = Path(__file__).parents[3] / "attacker_eval" / "results"


def test_committed_result_has_the_audits_own_best_attack() -> None:
    folder = RESULTS / "frontier_cifar10_32"
    report = read_audit_report(folder)
    written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    compared = 0
    for endpoint in written["endpoints"]:
        (leak,) = report.leaks(endpoint["name"])
        assert leak.attack == endpoint["best"]
        compared += 1
    assert compared > 10


def test_attackers_of_a_result_have_a_leak_each() -> None:
    report = read_audit_report(RESULTS / "attackers_digits")
    leaks = report.leaks("stingy")
    names = [leak.attacker for leak in leaks]
    assert names == ["all-labels", "few-labels", "no-labels", "five-answers"]
    assert [leak.is_clear for leak in leaks] == [False, True, True, True]


def test_interval_is_that_of_students_t_with_few_seeds() -> None:
    (leak,) = make_report(fingerprint="f").leaks("e")
    # Two means of five runs with a deviation of 1: error sqrt(2/5), and 2.776 with 4 degrees.
    assert leak.low == pytest.approx(10.0 - 2.776 * 0.4**0.5)
    assert leak.high == pytest.approx(10.0 + 2.776 * 0.4**0.5)
    assert (leak.share, leak.is_clear) == (0.25, True)
    (small,) = make_report(fingerprint="f", uplift=1.0).leaks("e")
    assert not small.is_clear


def test_broken_or_white_box_attack_is_no_measurement() -> None:
    assert make_report(fingerprint="f", broken=True).leaks("e") == ()
    assert make_report(fingerprint="f", attack="dafl[white-box]").leaks("e") == ()


def test_one_seed_has_no_interval() -> None:
    document = report_document(fingerprint="f")
    for summary in document["summary"]:
        summary |= {"n": 1, "accuracy_spread": None}
    (leak,) = AuditReport.model_validate(document).leaks("e")
    assert (leak.low, leak.high, leak.is_clear) == (None, None, False)


@pytest.mark.parametrize(
    ("fingerprint", "version", "found"),
    [("f", "1", ["e"]), ("g", "1", []), ("f", "2", [])],
)
def test_endpoint_of_another_policy_or_version_is_not_found(
    fingerprint: str, version: str, found: list[str]
) -> None:
    report = make_report(fingerprint="f")
    names = [
        each.name for each in report.find(fingerprint=fingerprint, version=version, names=["x"])
    ]
    assert names == found


def test_models_of_one_policy_are_told_apart_by_name() -> None:
    document = report_document(fingerprint="f", model="normal")
    other = {**document["endpoints"][0], "name": "e2", "model": "nasty"}
    document["endpoints"].append(other)
    report = AuditReport.model_validate(document)

    def named(name: str) -> list[str]:
        return [each.name for each in report.find(fingerprint="f", version="1", names=[name])]

    assert (named("nasty"), named("normal"), named("else")) == (["e2"], ["e"], ["e", "e2"])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "got no report.json to read"),
        ("{}", "expected a stingy.audit/1 document"),
        ("no json", "expected a stingy.audit/1 document"),
        (json.dumps({**report_document(fingerprint="f"), "schema": "x"}), "expected a stingy"),
    ],
)
def test_file_that_is_no_report_is_refused_by_a_sentence(
    tmp_path: Path, content: str | None, text: str
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(ClientError, match=text):
        read_audit_report(tmp_path)
