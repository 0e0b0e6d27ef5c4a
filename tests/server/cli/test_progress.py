"""The progress of long commands: entries with their rate, and silence where nobody looks."""

import re

import pytest

from stingy_server.cli import progress
from stingy_server.cli.progress import counting, describe_count, working


@pytest.mark.parametrize(
    ("done", "seconds", "text"),
    [
        (120_000, 4.0, "verifying: 120,000 entries, 30,000 a second"),
        (5, 0.0, "verifying: 5 entries"),
    ],
)
def test_count_is_described_with_its_rate(done: int, seconds: float, text: str) -> None:
    assert describe_count("verifying", done, seconds) == text


def test_count_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with counting("verifying") as count:
        count(1000)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(progress, "LINE_S", 0.0)
        count(1000)
        shown = capsys.readouterr()
    assert shown.err.startswith("verifying: 2,000 entries, ")
    assert shown.out == ""


def test_work_without_a_terminal_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with working("packing"):
        pass
    assert capsys.readouterr() == ("", "")


def test_work_on_a_terminal_shows_its_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with working("packing"):
        pass
    shown = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "packing 0:00:00" in shown
