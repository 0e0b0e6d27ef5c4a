"""The same audit for machines and for pull requests."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from audit_results import audit_of, endpoint_of, rows_of
from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.exporters import as_csv, as_json, as_markdown

ROWS = rows_of({"open": {"label_only": 0.1, "sweep[tau=1,alpha=0.5]": 3.0, "dafl[white-box]": 9.0}})


def made(tmp_path: Path, **other: Any) -> Audit:
    return audit_of(tmp_path, ROWS, [endpoint_of("open", defence="a|b")], **other)


def test_json_has_verdicts_baselines_health_and_summaries(tmp_path: Path) -> None:
    found = json.loads(as_json(made(tmp_path)))
    assert found["schema"] == "stingy.audit.outcome/2"
    (attacker,), (endpoint,) = found["attackers"], found["endpoints"]
    (verdict,) = attacker["verdicts"]
    assert verdict["best"]["attack"] == "sweep[tau=1,alpha=0.5]"
    assert endpoint["utility"]["top5"] == 95.0
    (floor,) = attacker["lists"]
    assert (floor["over"], floor["on"], floor["margin"]) == ("label_only", "open", 1.0)
    assert floor["no_more_than_labels"] is False
    assert floor["outcome"] == "labels alone were not tried in the same way"
    assert {item["attack"]: item["gains"] for item in found["health"]} == {
        "no_api": 0,
        "label_only": 2,
        "sweep[tau=1,alpha=0.5]": 3,
        "dafl[white-box]": 3,
    }
    assert len(found["summary"]) == 4


def test_csv_has_a_line_per_summary_with_its_marks(tmp_path: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(made(tmp_path)))))
    marks = {line["attack"]: (line["best"], line["white_box"]) for line in lines}
    assert marks["sweep[tau=1,alpha=0.5]"] == ("True", "False")
    assert marks["dafl[white-box]"] == ("False", "True")
    assert lines[0]["agreement_mean"] == ""


def test_markdown_says_it_in_tables_that_a_bar_cannot_break(tmp_path: Path) -> None:
    text = as_markdown(made(tmp_path))
    assert r"**open (a\|b)**: +3.0 ±0.6 points" in text
    assert (
        "| open | 80.0 | 95.0 | 4.0 | 24 | sweep[tau=1,alpha=0.5] | +3.0 ±0.6 "
        "| labels alone were not tried in the same way |" in text
    )
    assert "| open | **sweep[tau=1,alpha=0.5]** | cnn_tiny | 1,000 | 3 |" in text
    widths = [line.replace(r"\|", "").count("|") for line in text.splitlines() if line[:1] == "|"]
    assert set(widths) == {9, 12}


def test_skipped_attack_is_exported_with_its_reason(tmp_path: Path) -> None:
    skipped = {
        "endpoint": "open",
        "attack": "inversion",
        "reason": "needs a policy it can simulate",
    }
    audit = made(tmp_path, skipped=[skipped])
    line = "\n\nNot run: inversion on open needs a policy it can simulate.\n\n"
    assert line in as_markdown(audit)
    assert json.loads(as_json(audit))["skipped"] == [
        skipped | {"attacker": "owner", "beyond": False}
    ]
