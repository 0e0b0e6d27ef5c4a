"""The text of `stingy models list`: fingerprint, traffic and warnings, at 80 and 140 columns."""

import time
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stingy_server import Database
from stingy_server.cli.main import app
from stingy_server.cli.tables.models import hourly_images, model_lines
from stingy_server.store.deployments import Deployments, Report
from stingy_server.store.ledger import Entry, Ledger
from stingy_server.times import stamp

POLICY = "stingy: top 2 of 10 classes, log_prob at 3 decimals"
WARNING = "digits 2 and open 1 serve the same weights: together they are at least as open as open 1"
ENTRY = Entry(stamp(), "r", "k", "digits", "2", "82a2befe7ba7", "ff", 3, 3, 9.0, 200, "answer", 9)


def report(
    process: str = "1", policy: str = POLICY, *, share: float = 0.5, fault: str | None = None
) -> Report:
    fingerprint = "" if fault else "82a2befe7ba7"
    return Report(
        process, "digits", "2", policy, share, fault, time.time(), WARNING, "stingy", fingerprint
    )


@pytest.mark.parametrize(
    ("other", "share", "text"),
    [
        (report("2", "label"), "0.5", "label"),
        (report("2", "stingy"), "0.5", "processes differ: label; stingy"),
        (report("2", "label", share=1.0), "0.5 or 1", "label"),
        (report("2", "", fault="no file"), "0.5", "processes differ: label; not served: no file"),
    ],
)
def test_line_of_a_version_names_differences_of_processes(
    other: Report, share: str, text: str
) -> None:
    lines = model_lines([report("1", "label"), other], {("digits", "2"): "7"})
    shown = " ".join(lines[1].split())
    assert shown.startswith(f"digits 2 {share} 2 7 82a2befe7ba7")
    assert text in " ".join(lines[1:3])


@pytest.mark.parametrize("columns", [80, 140])
def test_list_shows_fingerprint_traffic_and_warnings(tmp_path: Path, columns: int) -> None:
    with closing(Database(tmp_path / "state")) as database:
        Deployments(database).report("1", [report()])
        old = ENTRY._replace(time="2026-01-01T00:00:00.000000+00:00")
        Ledger(database).append(old, ENTRY, ENTRY, ENTRY._replace(answered=0, event="overloaded"))
    done = CliRunner().invoke(
        app,
        ["models", "list", "--state", str(tmp_path / "state")],
        env={"COLUMNS": str(columns)},
    )
    lines = done.stdout.splitlines()
    heads = ["model", "version", "share", "processes", "images/h", "fingerprint"]
    assert lines[0].split()[:6] == heads
    assert lines[1].split()[:6] == ["digits", "2", "0.5", "1", "6", "82a2befe7ba7"]
    assert lines[-1] == f"warning: {WARNING}"
    assert (POLICY in lines[1]) == (columns == 140)
    assert lines[2].strip() == (POLICY if columns == 80 else lines[-1])
    assert max(map(len, lines[:-1])) <= columns


def test_traffic_of_a_cut_ledger_is_a_lower_bound() -> None:
    entries = [(1, ENTRY), (2, ENTRY)]
    since = "2026-01-01T00:00:00.000000+00:00"
    assert hourly_images(entries, since=since, is_cut=True) == {("digits", "2"): ">6"}
    assert hourly_images(entries, since=since, is_cut=False) == {("digits", "2"): "6"}
