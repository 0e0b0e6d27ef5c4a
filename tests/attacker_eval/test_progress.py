"""Progress of an audit: the rate of the present task, and lines where there is no terminal."""

from io import StringIO

import pytest
from rich.console import Console

from stingy_attacker_eval import progress
from stingy_attacker_eval.progress import Rate, report_progress


def test_rate_counts_from_the_first_report_of_a_task() -> None:
    rate = Rate()
    assert rate.text(100, 1000, 10.0) == ""
    assert rate.text(150, 1000, 20.0) == "5.0 a second"
    assert rate.text(103, 1000, 24.0) == ""  # a new task of the same size
    assert rate.text(105, 1000, 144.0) == "1.0 a minute"
    assert rate.text(1, 5, 150.0) == ""


def test_lines_without_a_terminal_have_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    shown = StringIO()
    with report_progress(Console(file=shown, width=80)) as reporter:
        reporter.step(1, 10, "buying from stingy")
        reporter.step(6, 10, "buying from stingy")
    first, second = shown.getvalue().splitlines()
    assert first == "buying from stingy: 1 of 10"
    assert second.startswith("buying from stingy: 6 of 10, ")
    assert second.endswith(" a second")


def test_bar_on_a_terminal_has_the_rate() -> None:
    shown = StringIO()
    with report_progress(Console(file=shown, width=120, force_terminal=True)) as reporter:
        reporter.step(1, 10, "training")
        reporter.step(9, 10, "training")
    assert "9/10" in shown.getvalue()
    assert " a second" in shown.getvalue()
