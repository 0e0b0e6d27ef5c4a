"""The audit's commands: light imports, one red line for each error, exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import stingy_attacker_eval
from audit_fakes import save_striped
from audit_results import audit_of, rows_of
from stingy_attacker_eval.cli import app

RUN = CliRunner()


def test_cli_import_loads_no_heavy_package() -> None:
    code = (
        "import sys, stingy_attacker_eval.cli\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'matplotlib', 'rich', 'jinja2', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_loads() -> None:
    for name in stingy_attacker_eval.__all__:
        assert getattr(stingy_attacker_eval, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        stingy_attacker_eval.nothing  # noqa: B018


def test_attacks_are_listed_with_their_capabilities() -> None:
    found = json.loads(RUN.invoke(app, ["audit", "attacks", "--json"]).stdout)
    by_name = {attack["name"]: attack for attack in found}
    assert by_name["label_only"]["needs"] == "answers"
    assert by_name["paper_kd"]["needs"] == "answers, labels, scores"


@pytest.mark.parametrize("columns", [80, 140])
def test_list_of_attacks_has_one_line_each(columns: int) -> None:
    found = json.loads(RUN.invoke(app, ["audit", "attacks", "--json"]).stdout)
    shown = RUN.invoke(app, ["audit", "attacks"], env={"COLUMNS": str(columns)}).stdout
    head, *lines = shown.splitlines()
    assert ("reference" in head) == (columns == 140)
    assert [line.split()[0] for line in lines] == [attack["name"] for attack in found]
    assert max(map(len, lines)) <= columns


def test_errors_are_printed_one_a_line_with_status_2(tmp_path: Path) -> None:
    protocol = tmp_path / "bad.toml"
    protocol.write_text('dataset = "cifar"')
    options = ["--out", str(tmp_path / "o"), "--url", "http://127.0.0.1:9", "--key", "secret"]
    result = RUN.invoke(app, ["audit", "run", str(protocol), *options])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 8
    assert "secret" not in result.output


def test_absent_server_is_reported_without_the_key(tmp_path: Path) -> None:
    protocol = tmp_path / "good.toml"
    protocol.write_text(
        f'title = "t"\ndataset = "{save_striped(tmp_path)}"\nbudget = 144\n'
        'students = ["cnn_tiny"]\nseeds = [0]\nepochs = 1\nattacks = ["label_only"]\n'
        '[[endpoints]]\nname = "a"\nmodel = "a"\ndefence = "open"\n'
    )
    options = ["--out", str(tmp_path / "o"), "--url", "http://127.0.0.1:9", "--key", "secret"]
    result = RUN.invoke(app, ["audit", "run", str(protocol), *options])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "secret" not in result.output


def test_report_of_an_empty_folder_is_refused(tmp_path: Path) -> None:
    result = RUN.invoke(app, ["audit", "report", str(tmp_path)])
    assert result.exit_code == 2
    assert "report.json" in result.stderr


@pytest.mark.parametrize(
    ("form", "begins"), [("json", "{"), ("csv", "endpoint,"), ("md", "## made up")]
)
def test_report_is_printed_in_other_formats(tmp_path: Path, form: str, begins: str) -> None:
    audit_of(tmp_path, rows_of({"open": {"label_only": 1.0}}))
    result = RUN.invoke(app, ["audit", "report", str(tmp_path), "--format", form])
    assert (result.exit_code, result.stdout[: len(begins)]) == (0, begins)
    assert not (tmp_path / "report.html").exists()


def test_report_is_redrawn(tmp_path: Path) -> None:
    audit_of(tmp_path, rows_of({"open": {"label_only": 1.0}}))
    result = RUN.invoke(app, ["audit", "report", str(tmp_path)])
    assert result.stdout.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").exists()


def test_gate_exits_with_0_or_with_1_and_the_reason(tmp_path: Path) -> None:
    audit_of(tmp_path, rows_of({"open": {"label_only": 1.0}, "shut": {"label_only": 0.0}}))
    gate = ["audit", "gate", str(tmp_path), "--max-uplift"]
    passed = RUN.invoke(app, [*gate, "1.8"])
    assert passed.exit_code == 0
    assert passed.stdout.startswith("PASS\nLEAKS")
    assert [line.partition(":")[0] for line in passed.stdout.splitlines()[-2:]] == ["open", "shut"]
    failed = RUN.invoke(app, [*gate, "0.6"])
    assert failed.exit_code == 1
    assert failed.stdout.startswith("FAIL\nLEAKS")
    assert failed.stderr == (
        "open: label_only gained +1.0 ±0.3 points with cnn_tiny, at most +1.51 (95 %), "
        "more than 0.6\n"
    )
    both = RUN.invoke(app, [*gate, "-1"]).stderr.splitlines()
    assert [line.partition(":")[0] for line in both] == ["open", "shut"]
    assert RUN.invoke(app, [*gate, "0.6", "--endpoint", "shut"]).exit_code == 0
    assert RUN.invoke(app, [*gate, "1.8", "--attacker", "owner"]).exit_code == 0
    assert "got nobody" in RUN.invoke(app, [*gate, "1.8", "--attacker", "nobody"]).stderr
    assert RUN.invoke(app, ["audit", "gate", str(tmp_path / "no"), "--max-uplift", "1"]).exit_code


def test_gate_writes_junit_whether_it_passes_or_not(tmp_path: Path) -> None:
    audit_of(tmp_path, rows_of({"open": {"label_only": 1.0}}))
    for uplift, failures in (("2.5", 0), ("0.6", 1)):
        junit = tmp_path / f"{uplift}.xml"
        options = ["--max-uplift", uplift, "--junit", str(junit)]
        result = RUN.invoke(app, ["audit", "gate", str(tmp_path), *options])
        assert result.exit_code == failures
        assert f'failures="{failures}"' in junit.read_text()


def test_lab_takes_a_protocol_or_a_data_set_not_both(tmp_path: Path) -> None:
    options = ["--out", str(tmp_path), "--protocol", "digits", "--dataset", "digits"]
    result = RUN.invoke(app, ["audit", "lab", *options])
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "got both" in result.stderr


def test_lab_takes_training_options_and_reuses_teachers(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    options = ["--out", str(bundles), "--dataset", save_striped(tmp_path), "--network", "cnn_tiny"]
    options += ["--epochs", "1", "--lr", "0.05", "--seed", "3", "--omega", "0.01", "--tau", "2"]
    first = RUN.invoke(app, ["audit", "lab", *options])
    assert first.exit_code == 0, first.output
    assert "(kept)" not in first.stdout
    repeated = RUN.invoke(app, ["audit", "lab", *options]).stdout.splitlines()
    assert [line.endswith("(kept)") for line in repeated] == [True, True]
    options[-1] = "4"
    other = RUN.invoke(app, ["audit", "lab", *options]).stdout.splitlines()
    assert [line.endswith("(kept)") for line in other] == [True, False]


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_lab_refuses_seeds_that_a_protocol_refuses(tmp_path: Path, seed: str) -> None:
    result = RUN.invoke(app, ["audit", "lab", "--out", str(tmp_path), "--seed", seed])
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "--seed" in result.stderr


def test_lab_with_protocol_and_training_options_is_refused(tmp_path: Path) -> None:
    result = RUN.invoke(
        app, ["audit", "lab", "--out", str(tmp_path), "--protocol", "x.toml", "--epochs", "1"]
    )
    assert result.exit_code == 2
    assert "got both" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--max-uplift", "nan"],
        ["--max-uplift", "1", "--endpoint", "none"],
        ["--max-uplift", "1", "--attacker", "nobody"],
    ],
)
def test_gate_that_is_asked_for_nothing_judges_nothing(tmp_path: Path, options: list[str]) -> None:
    audit_of(tmp_path, rows_of({"open": {"soft_label": 1.0}}))
    found = RUN.invoke(app, ["audit", "gate", str(tmp_path), *options])
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.startswith("expected ")


def test_lab_refuses_widths_that_a_protocol_refuses(tmp_path: Path) -> None:
    result = RUN.invoke(app, ["audit", "lab", "--out", str(tmp_path), "--width", "5000"])
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])


def test_bundles_that_are_no_folder_are_refused(tmp_path: Path) -> None:
    options = ["--out", str(tmp_path / "o"), "--url", "http://127.0.0.1:9", "--key", "k"]
    result = RUN.invoke(
        app, ["audit", "run", "digits", *options, "--bundles", str(tmp_path / "no")]
    )
    assert result.exit_code == 2
    assert "expected a folder of bundles, got none at" in result.stderr


def test_path_through_a_file_is_named_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    result = RUN.invoke(app, ["audit", "report", str(file)])
    assert result.exit_code == 2
    place = file / "report.json"
    assert result.stderr == f"expected to read or write {place}, got: Not a directory\n"
