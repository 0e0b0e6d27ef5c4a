"""The verdicts on a terminal of 80 and 140 columns: nothing cut, and the page's words."""

import itertools
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from audit_results import audit_of, endpoint_of, rows_of, utility_of
from stingy_attacker_eval.cli import app
from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.ci_gate import gate_lines
from stingy_attacker_eval.report.exporters import as_markdown
from stingy_attacker_eval.report.html import render
from stingy_attacker_eval.report.terminal import print_table, print_verdicts
from stingy_attacker_eval.report.tiles import tiles
from stingy_attacker_eval.report.verdicts import attacker_verdicts

LONG = "a-policy-whose-name-has-sixty-four-characters-which-is-the-most-"
UPLIFTS = {
    "open": {"label_only": 0.1, "sweep[tau=1,alpha=1]": 4.0},
    LONG: {"label_only": 0.1, "sweep[tau=1,alpha=1]": 2.0},
    "label": {"label_only": 0.1},
}


def made(tmp_path: Path) -> Audit:
    endpoints = [
        endpoint_of("open", policy="open"),
        endpoint_of(LONG),
        endpoint_of("label", support=1, utility=utility_of(top5=80.0, ece=None)),
    ]
    return audit_of(tmp_path, rows_of(UPLIFTS), endpoints)


def printed(audit: Audit, width: int) -> str:
    console = Console(file=StringIO(), width=width)
    print_verdicts(audit, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 140])
def test_verdicts_fit_the_terminal_and_cut_nothing(tmp_path: Path, width: int) -> None:
    assert len(LONG) == 64
    audit = made(tmp_path)
    text = printed(audit, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for title in ("LEAKS", "WORST ATTACKER", "PRICE", "DO"):
        assert any(line.startswith(title) for line in text.splitlines())
    # A folded name is whole once the other columns of its lines are gone.
    lines = text.splitlines()
    (head,) = [n for n, line in enumerate(lines) if line.lstrip().startswith("endpoint ")]
    end = lines[head].index("teaches")
    assert LONG in "".join(line[:end].strip() for line in lines[head + 1 :])
    assert ("first 5 %" in text) == (width == 140)


def test_terminal_and_page_say_the_same_words(tmp_path: Path) -> None:
    audit = made(tmp_path)
    text = " ".join(printed(audit, 400).split())
    page = render(audit).replace("<wbr>", "")
    (found,) = attacker_verdicts(audit)
    for tile in tiles(found):
        assert f"{tile.lead}: {tile.text}" in text
        assert f'<p class="lead">{tile.lead}</p>' in page
        assert f"<p>{tile.text}</p>" in page


def test_every_endpoint_has_a_line_with_its_uplift(tmp_path: Path) -> None:
    audit = made(tmp_path)
    text = printed(audit, 140)
    (found,) = attacker_verdicts(audit)
    for leak in found.leaks:
        uplift = f"{leak.uplift.mean:+.1f} ±{2 * (leak.uplift.error or 0.0):.1f}"
        assert any(
            leak.endpoint.name[:8] in line and uplift in line for line in text.splitlines()
        ), leak.endpoint.name


def test_direction_marks_and_markup_of_a_name_are_plain(tmp_path: Path) -> None:
    rows = rows_of({"[red]bad\u202e": {"label_only": 0.1, "soft_label": 3.0}})
    text = printed(audit_of(tmp_path, rows), 140)
    assert "[red]bad<U+202E>" in text
    assert "\u202e" not in text


def test_the_table_of_attacks_comes_before_the_verdicts(tmp_path: Path) -> None:
    rows = rows_of({"open": {"sweep[tau=1,alpha=0.9]": 1.0, "paper_kd": 0.0}})
    rows = [r.model_copy(update={"finite": r.attack != "paper_kd"}) for r in rows]
    console = Console(file=StringIO(), width=80)
    print_table(audit_of(tmp_path, rows), console)
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert text.index("sweep[tau=1,alpha=0.9]") < text.index("LEAKS")
    assert "broken attack" in text


def test_uplift_has_the_same_error_wherever_it_is_printed(tmp_path: Path) -> None:
    audit = made(tmp_path)
    console = Console(file=StringIO(), width=140)
    print_table(audit, console)
    assert isinstance(console.file, StringIO)
    table, _, verdicts = console.file.getvalue().partition("LEAKS")
    gate, markdown = "\n".join(gate_lines(audit)), as_markdown(audit)
    (found,) = attacker_verdicts(audit)
    for leak in found.leaks:
        assert leak.uplift.error is not None
        assert leak.uplift.error != pytest.approx(leak.best.uplift_spread, rel=0.05)
        text = f"{leak.uplift.mean:+.1f} ±{2 * leak.uplift.error:.1f}"
        for printed_text in (table, verdicts, gate, markdown, render(audit)):
            assert text in printed_text
    assert "± " not in table + markdown


@pytest.mark.parametrize("width", [80, 140])
def test_table_of_attacks_cuts_no_name_and_no_number(tmp_path: Path, width: int) -> None:
    attack = "consistent[attack=two_labels,views=5]"
    console = Console(file=StringIO(), width=width)
    print_table(audit_of(tmp_path, rows_of({LONG: {"label_only": 0.1, attack: 4.0}})), console)
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().partition("made up")[0].splitlines()
    assert max(map(len, lines)) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in "".join(lines)
    (head,) = [line for line in lines if "accuracy %" in line]
    columns = head.index("endpoint"), head.index("attack"), head.index("accuracy %")
    folded = [
        "".join(line[start:end].strip() for line in lines)
        for start, end in itertools.pairwise(columns)
    ]
    assert LONG in folded[0]
    assert attack in folded[1]
    assert any(line.endswith("+4.0 ±0.5  ") for line in lines)


def test_report_as_text_prints_the_verdicts(tmp_path: Path) -> None:
    made(tmp_path)
    result = CliRunner().invoke(app, ["audit", "report", str(tmp_path), "--format", "text"])
    assert result.exit_code == 0
    assert "40 % of the gap to your model" in result.stdout
    assert not (tmp_path / "report.html").exists()
