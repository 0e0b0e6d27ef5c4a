"""The demo on CUDA: teachers, server, students and report all use the device."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from stingy_attacker_eval import demo


@pytest.mark.cuda
def test_demo_on_cuda_writes_a_report_with_finite_students(tmp_path: Path) -> None:
    page = demo.run_demo(tmp_path, console=Console(file=StringIO()))
    report = json.loads((tmp_path / "report.json").read_text())
    assert page.exists()
    assert report["environment"]["device"] != "cpu"
    assert report["rows"]
    assert all(row["finite"] for row in report["rows"])
    accuracy = {item["name"]: item["teacher_accuracy"] for item in report["endpoints"]}
    assert accuracy["normal"] > 90
    assert accuracy["normal"] == accuracy["stingy"]
