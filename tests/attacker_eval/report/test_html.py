"""The page: one file that needs no network, and text that says what the rows say."""

import base64
import hashlib
import re
from pathlib import Path

import pytest

from audit_results import audit_of, endpoint_of, report_of, row, rows_of
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import write_json
from stingy_attacker_eval.report.analysis import health, verdict
from stingy_attacker_eval.report.html import read_audit, render, write_report
from stingy_attacker_eval.report_schema import Report
from stingy_attacker_eval.results import NO_ENDPOINT, Row


def runs(
    attack: str,
    accuracy: float | None,
    *,
    endpoint: str = "stingy",
    spread: float | None = 0.5,
    queries: int = 1297,
) -> list[Row]:
    """Make three rows with this mean and deviation, broken ones for None; one without a spread.

    The seeds are those of no other attack, so runs are never paired.
    """
    other = {"queries": queries, "finite": accuracy is not None, "uplift": 0.0}
    gaps = (0.0,) if spread is None else (-spread, 0.0, spread)
    first = sum(attack.encode()) * 10
    return [
        row(
            endpoint,
            attack,
            first + number,
            (accuracy or 0.0) + gap * (accuracy is not None),
            **other | ({} if accuracy is None else {"uplift": accuracy + gap - 90.0}),
        )
        for number, gap in enumerate(gaps)
    ]


def report(*attacks: list[Row]) -> Report:
    """Make a report with a baseline of 90 %; its sentences follow the rows."""
    baseline = runs("no_api", 90.0, endpoint=NO_ENDPOINT, queries=0)
    rows = [*baseline, *(each for rows in attacks for each in rows)]
    skipped = [{"endpoint": "stingy", "attack": "x", "reason": "needs scores"}]
    return report_of(rows, None, {"title": "a <b>bold</b> title"}, skipped=skipped)


def sentences(tmp_path: Path, *attacks: list[Row]) -> str:
    report(*attacks).write(tmp_path)
    audit = read_audit(tmp_path)
    found = verdict(audit, audit.endpoints[0])
    return f"{found.sentence} {found.remark}"


def test_verdict_has_best_uplift_spread_and_price(tmp_path: Path) -> None:
    text = sentences(tmp_path, runs("paper_kd", 82.0), runs("soft_label", 92.5))
    assert text.startswith("+2.5 ±0.8 points of uplift over training without the API: the best")
    assert "soft_label" in text
    assert "1,297 queries" in text
    assert "without the API it reaches 90.0 %" in text
    assert "95 % interval +1.37 to +3.63, n = 3." in text
    assert "Chosen out of 2 on the same seeds, which leans upwards." in text
    assert "The weakest attack, paper_kd, would have said \N{MINUS SIGN}8.0." in text


@pytest.mark.parametrize(
    ("accuracy", "spread", "remark"),
    [
        (90.6, 0.5, "no uplift could be measured"),
        (
            90.6,
            0.3,
            "95 % interval \N{MINUS SIGN}0.42 to +1.62, n = 3: no uplift could be measured",
        ),
        (92.0, 0.5, "95 % interval +0.87 to +3.13, n = 3."),
        (85.0, 0.5, "This attack did not reach what training without the API gives"),
        (93.0, None, "One seed"),
    ],
)
def test_the_remark_follows_the_spread(
    tmp_path: Path, accuracy: float, spread: float | None, remark: str
) -> None:
    assert remark in sentences(tmp_path, runs("soft_label", accuracy, spread=spread))


def test_many_seeds_measure_smaller_uplifts_than_few(tmp_path: Path) -> None:
    def remark(seeds: int) -> str:
        rows = [row(NO_ENDPOINT, "no_api", n, 70.0 + 0.3 * (-1) ** n) for n in range(seeds)]
        rows += [row("open", "soft_label", n, 70.4 + 0.3 * (-1) ** (n // 2)) for n in range(seeds)]
        audit = audit_of(tmp_path, rows)
        return verdict(audit, audit.endpoints[0]).remark

    assert "no uplift could be measured" not in remark(20)
    assert "no uplift could be measured" in remark(4)


def test_price_is_that_of_the_best_attack(tmp_path: Path) -> None:
    queried = runs("active", 93.0, queries=400)
    assert "after 400 queries" in sentences(tmp_path, runs("soft_label", 92.0), queried)


def test_a_white_box_attack_is_marked_and_never_the_headline(tmp_path: Path) -> None:
    best = runs("dafl[white-box]", 98.0)
    worst = runs("other[white-box]", 10.0)
    text = sentences(tmp_path, runs("soft_label", 92.0), best, worst)
    assert "the best attack, soft_label," in text
    assert "The weakest" not in text
    page = render(read_audit(tmp_path))
    assert "Attacks marked white-box read the network itself" in page
    marked = re.findall(r'<tr class="best">.*?</tr>', page.replace("<wbr>", ""), re.DOTALL)
    assert len(marked) == 1
    assert "soft_label" in marked[0]


def test_health_counts_finite_runs_and_gains(
    tmp_path: Path,
) -> None:
    rows = rows_of({"open": {"label_only": 0.0, "soft_label": 2.0}})
    rows[-1] = rows[-1].model_copy(update={"finite": False})
    audit = audit_of(tmp_path, rows)
    found = [(item.attack, item.runs, item.finite, item.gains) for item in health(audit)]
    assert found == [("no_api", 3, 3, 0), ("label_only", 3, 3, 1), ("soft_label", 3, 2, 2)]
    cells = [f'<td class="number" data-value="{n}.0">{n}</td>' for n in (3, 2, 2)]
    assert "".join(cells) in render(audit)


def test_a_broken_attack_is_called_broken_and_never_a_protection(tmp_path: Path) -> None:
    assert "could be run to a finite loss" in sentences(tmp_path, runs("paper_kd", None))
    page = render(read_audit(tmp_path))
    assert '<td class="number">broken</td>' in page
    assert "broken attack, not a protected model" in re.sub(r"\s+", " ", page)
    assert "nothing to report" in page


def test_an_endpoint_without_a_best_attack_says_why(tmp_path: Path) -> None:
    def said(endpoint: str, *rows: Row) -> str:
        endpoints = [endpoint_of(name) for name in ("a", "b")]
        skipped = [{"endpoint": "b", "attack": "soft_label", "reason": "x"}]
        all_rows = [row(NO_ENDPOINT, "no_api", 0, 70.0), *rows]
        audit = audit_of(tmp_path, all_rows, endpoints, skipped=skipped)
        assert not audit.best
        return verdict(audit, endpoints[endpoint == "b"]).sentence

    white = row("a", "dafl[white-box]", 0, 71.0)
    assert said("a") == "Not run."
    assert said("b") == "Not run; skipped: soft_label."
    assert said("a", row("a", "label_only", 0, 70.0, budget=9)) == "Not run."  # for the curve alone
    assert said("a", white).startswith("White-box only: ")
    assert said("a", white, row("a", "label_only", 0, 70.0, finite=False)).startswith("Broken: ")


@pytest.mark.parametrize("part", ["endpoints", "rows", "summary", "config"])
def test_a_report_without_a_part_is_none(tmp_path: Path, part: str) -> None:
    whole = report(runs("soft_label", 92.0)).model_dump(mode="json")
    write_json(tmp_path / "report.json", {name: whole[name] for name in whole if name != part})
    with pytest.raises(AuditError, match=r"expected a stingy\.audit/1 document at"):
        read_audit(tmp_path)


def test_the_page_never_promises_too_much(tmp_path: Path) -> None:
    sentences(tmp_path, runs("soft_label", 80.0))
    assert "undistillable" not in render(read_audit(tmp_path)).lower()


def test_text_from_the_report_is_escaped(tmp_path: Path) -> None:
    sentences(tmp_path, runs("soft_label", 92.0))
    page = render(read_audit(tmp_path))
    assert "a &lt;b&gt;bold&lt;/b&gt; title" in page
    assert "<b>" not in page


def test_the_same_report_draws_the_same_page(tmp_path: Path) -> None:
    sentences(tmp_path, runs("soft_label", 92.0))
    assert render(read_audit(tmp_path)) == render(read_audit(tmp_path))


@pytest.mark.parametrize("content", ["{}", "not json", '{"schema": "other/1"}', "[]"])
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(AuditError, match=r"expected a stingy\.audit/1 document"):
        read_audit(tmp_path)


def test_a_folder_without_a_finished_audit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"got no report\.json"):
        read_audit(tmp_path)


def test_E7_page_requests_nothing_and_runs_one_hashed_script(tmp_path: Path) -> None:
    sentences(tmp_path, runs("soft_label", 92.0), runs("sweep[tau=1,alpha=1]", 91.0))
    page = write_report(tmp_path).read_text()
    assert not re.search(r"https?:|@import|<link|<iframe|src=|srcset|\sstyle=|\son\w+=", page)
    assert not re.search(r"url\((?!#)", page)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;") or policy[1].startswith(
        "default-src 'none'"
    )
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]


def test_every_anchor_of_the_navigation_is_on_the_page(tmp_path: Path) -> None:
    sentences(tmp_path, runs("soft_label", 92.0))
    page = render(read_audit(tmp_path))
    anchors = re.findall(r'href="#([\w-]+)"', page)
    assert len(anchors) > 6
    names = re.findall(r'id="([\w-]+)"', page)
    assert len(names) == len(set(names))
    assert set(anchors) <= set(names)
    assert 'href="report.json"' in page
    assert 'href="rows.jsonl"' in page


def test_every_table_has_a_caption_and_scoped_heads(tmp_path: Path) -> None:
    page = render(audit_of(tmp_path, rows_of({"open": {"label_only": 0.1, "soft_label": 3.0}})))
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    assert len(tables) >= 6
    for table in tables:
        assert "<caption" in table
        assert 'scope="col"' in table
        assert not re.search(r"<th[^>]*></th>", table)


def test_each_student_has_a_line_with_its_seed_and_accuracy(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, rows_of({"open": {"soft_label": 3.0}}))
    page = render(audit)
    table = page[page.index('id="seeds-table"') :]
    for each in audit.report.rows:
        assert f">{each.accuracy:.2f}</td>" in table


def test_audit_that_was_cut_off_says_how_many_runs_are_missing(tmp_path: Path) -> None:
    rows = rows_of({"open": {"label_only": 0.1, "soft_label": 3.0}, "shut": {"label_only": 0.2}})
    page = render(audit_of(tmp_path, rows))
    assert "This audit is not complete." in page
    assert "3 of 15 runs are missing" in page
    whole = [*rows, *(row("shut", "soft_label", seed, 71.0) for seed in range(3))]
    assert "not complete" not in render(audit_of(tmp_path, whole))


def test_charges_that_differ_from_queries_are_a_warning(tmp_path: Path) -> None:
    endpoints = [endpoint_of("open", queries_charged=1501)]
    page = render(audit_of(tmp_path, rows_of({"open": {"label_only": 0.1}}), endpoints))
    assert "Charged and spent differ." in page
