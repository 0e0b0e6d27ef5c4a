"""`stingy try` before its page opens: faults end it with status 2 and a sentence."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving import make_bundle
from stingy_server.cli.main import app
from stingy_server.loopback.runner import bind


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["try", *map(str, words)])
    return done.exit_code, done.stderr


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STINGY_TRUSTED_FACTORIES", '["sample_networks", "odd_networks"]')
    monkeypatch.setenv("STINGY_DEVICE", "cpu")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("nothing",), "expected a bundle, got nothing of this name"),
        (("bundle", "--audit", "nothing"), "got no report.json to read"),
        (("bundle", "--config", "nothing.toml"), "nothing.toml"),
    ],
)
def test_fault_ends_with_a_sentence(tmp_path: Path, words: tuple[str, ...], text: str) -> None:
    make_bundle(tmp_path / "bundle")
    status, shown = run(*words)
    assert status == 2
    assert text in shown


def test_model_that_fails_its_trial_is_not_tried(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", factory="odd_networks:ActiveDropout")
    status, shown = run("bundle")
    assert status == 2
    assert "digits: " in shown


def test_taken_port_ends_with_a_sentence(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    with bind() as listener:
        port = listener.getsockname()[1]
        status, shown = run("bundle", "--port", str(port))
    assert status == 2
    assert f"127.0.0.1:{port}: cannot listen here" in shown
