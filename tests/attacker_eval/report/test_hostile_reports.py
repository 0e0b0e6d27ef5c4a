"""Reports of odd audits: every page is drawn, true, and no name runs as markup."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_results import audit_of, endpoint_of, row, rows_of, utility_of
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.report.analysis import Audit, read_audit, verdict
from stingy_attacker_eval.report.ci_gate import gate_cases, junit_xml
from stingy_attacker_eval.report.comparison import compare_audits
from stingy_attacker_eval.report.exporters import as_markdown
from stingy_attacker_eval.report.html import render, render_comparison
from stingy_attacker_eval.results import NO_ENDPOINT, summarise

PAIR = {"label_only": 0.1, "soft_label": 3.0}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\u202eright-to-left\u2067",
    "x" * 64,
    "{{ 7 * 7 }}{% raw %}",
    "</style></svg>",
)


def hostile(folder: Path) -> Audit:
    """Write an audit whose endpoints, defences, attacks and title are hostile."""
    rows = rows_of({name: {"label_only": 0.1, f"a[{name}]": 3.0} for name in HOSTILE})
    rows = [r.model_copy(update={"defence": f"by {r.endpoint}"}) for r in rows]
    endpoints = [
        endpoint_of(name, defence=f"by {name}", model=name, version=name, policy=name)
        for name in HOSTILE
    ]
    skipped = [{"endpoint": name, "attack": name, "reason": f"needs {name}"} for name in HOSTILE]
    environment = {"device": "cpu", "cpu": HOSTILE[0], "commit": HOSTILE[1]}
    return audit_of(
        folder,
        rows,
        endpoints,
        {"title": " ".join(HOSTILE), "dataset": HOSTILE[0]},
        skipped=skipped,
        environment=environment,
    )


def one_endpoint(folder: Path) -> Audit:
    return audit_of(folder, rows_of({"open": PAIR}))


def fifteen_endpoints(folder: Path) -> Audit:
    names = [f"policy-{number}" for number in range(15)]
    endpoints = [
        endpoint_of(name, utility=utility_of(top5=80.0 + n)) for n, name in enumerate(names)
    ]
    uplifts = {name: {"label_only": 0.1, "soft_label": n / 3} for n, name in enumerate(names)}
    return audit_of(folder, rows_of(uplifts), endpoints)


def nothing_measured(folder: Path) -> Audit:
    return audit_of(folder, rows_of({"open": {"label_only": 0.1, "soft_label": 0.2}}))


def broken_attacks_only(folder: Path) -> Audit:
    rows = rows_of({"open": PAIR, "shut": PAIR})
    return audit_of(
        folder, [r.model_copy(update={"finite": r.endpoint == NO_ENDPOINT}) for r in rows]
    )


def cut_off(folder: Path) -> Audit:
    """Write an audit that has the baseline and one attack of one of three endpoints."""
    rows = [r for r in rows_of({"a": PAIR}) if r.attack != "soft_label"]
    endpoints = [endpoint_of(name) for name in ("a", "b", "c")]
    attacks: dict[str, Any] = {"attacks": {"no_api": {}, "label_only": {}, "soft_label": {}}}
    return audit_of(folder, rows, endpoints, attacks)


def without_rows(folder: Path) -> Audit:
    return audit_of(folder, [], [endpoint_of("open")])


def a_thousand_rows(folder: Path) -> Audit:
    rows = rows_of({"open": PAIR})
    rows += [
        row("open", f"attack{number}", seed, 70.0 + number % 7 + seed / 3)
        for number in range(330)
        for seed in range(3)
    ]
    return audit_of(folder, rows)


MAKERS = (
    hostile,
    one_endpoint,
    fifteen_endpoints,
    nothing_measured,
    broken_attacks_only,
    cut_off,
    without_rows,
    a_thousand_rows,
)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_page_of_an_odd_audit_has_its_verdict_and_rows(
    tmp_path: Path, make: Callable[[Path], Audit]
) -> None:
    audit = make(tmp_path)
    page = render(audit)
    assert page.count("<h3>Leaks</h3>") == 1
    assert page.count("<h3>Do</h3>") == 1
    table = page[page.index('id="seeds-table"') :].partition("</table>")[0]
    assert table.count("<tr") == 1 + len(audit.report.rows)
    is_gain = re.search(r'<div class="tile">\s*<h3>Leaks', page) is not None
    has_gain = make in (hostile, one_endpoint, fifteen_endpoints, a_thousand_rows)
    assert is_gain == has_gain


def test_E7_no_name_runs_as_markup_or_reorders_the_page(tmp_path: Path) -> None:
    audit = hostile(tmp_path)
    pages = (render(audit), render_comparison(compare_audits(audit, audit)))
    for page in pages:
        assert page.count("<script") == 1
        assert page.count("</script") == 1
        assert page.count("</style") == 1
        assert "<img" not in page
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", page)
        assert "&lt;U+202E&gt;right" in page
    assert "{{ 7 * 7 }}" in pages[0].replace("<wbr>", "")
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", as_markdown(audit))


def test_junit_of_hostile_names_is_well_formed(tmp_path: Path) -> None:
    audit = hostile(tmp_path)
    cases = gate_cases(audit, max_uplift=0.0)
    suite = ET.fromstring(junit_xml(cases, title=audit.report.config.title))  # noqa: S314
    assert len(suite.findall(".//testcase")) == len(cases)


def test_page_of_fifteen_policies_has_one_forest_and_no_bars(tmp_path: Path) -> None:
    page = render(fifteen_endpoints(tmp_path))
    assert page.count('class="plot"') == 1
    assert "from no API to the student" not in page
    forest = page[page.index('id="policies-table"') :].partition("</tbody>")[0]
    assert forest.count('<svg class="figure"') == 16


def test_page_of_two_endpoints_has_gauges_and_bars(tmp_path: Path) -> None:
    page = render(audit_of(tmp_path, rows_of({"open": PAIR, "shut": PAIR})))
    gauges = page[page.index('id="policies-table"') :].partition("</tbody>")[0]
    assert gauges.count('<rect class="track"') == 2
    assert "from no API to the student" in page
    assert page.count('<rect class="fill') == 2 + 4


def test_report_without_an_attacker_is_refused(tmp_path: Path) -> None:
    audit_of(tmp_path, rows_of({"open": PAIR}))
    path = tmp_path / "report.json"
    report = json.loads(path.read_text())
    report["config"]["attackers"] = []
    path.write_text(json.dumps(report))
    with pytest.raises(AuditError):
        read_audit(tmp_path)


def _damaged(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write an audit of two endpoints whose report.json was changed by hand."""
    audit_of(folder, rows_of({"open": PAIR, "shut": PAIR}))
    path = folder / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))


@pytest.mark.parametrize("values", [{"n": 1}, {"n": -1}, {"uplift_mean": -80}, {"runs": 9}])
def test_summary_other_than_that_of_the_rows_is_refused(
    tmp_path: Path, values: dict[str, object]
) -> None:
    _damaged(tmp_path, lambda report: report["summary"][0].update(values))
    with pytest.raises(AuditError, match="expected the summary of the rows at"):
        read_audit(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report["endpoints"].pop(),
        lambda report: report["endpoints"].reverse(),
        lambda report: report["rows"][0].update(accuracy=1e308),
        lambda report: report["rows"][0].update(accuracy=101),
        lambda report: report["rows"][0].update(seed=10**300),
        lambda report: report["rows"][0].update(queries=10**300),
        lambda report: report["rows"][3].update(class_agreement=[101.0]),
        lambda report: [r.update(class_agreement=[1.0] * r["seed"]) for r in report["rows"]],
    ],
)
def test_report_with_impossible_parts_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    _damaged(tmp_path, change)
    with pytest.raises(AuditError, match=r"expected a stingy\.audit/1 document"):
        read_audit(tmp_path)


def test_best_attack_is_not_unchosen_if_no_seed_could_choose(tmp_path: Path) -> None:
    rows = rows_of({"open": PAIR})
    rows = [each.model_copy(update={"finite": each.seed > 0}) for each in rows]
    config = {"selection_seeds": [0], "seeds": [1, 2]}
    summary = summarise(rows, selection_seeds=[0])
    audit = audit_of(tmp_path, rows, config=config, summary=summary)
    remark = verdict(audit, audit.endpoints[0]).remark
    assert "so the others chose" in remark
    assert "not chosen" not in remark
