"""`stingy marks` as an operator types it."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from marking import SECRET, evidence, write_secret
from serving import make_bundle
from stingy_clients.documents.exhibit import read_exhibit
from stingy_server import Database
from stingy_server.cli.main import app
from stingy_server.marks.mark_store import LOCKS, MarkStore
from stingy_server.marks.secret import MarkSecret
from stingy_server.store.ledger import Ledger

Run = Callable[..., Result]
FILE_SECRET = MarkSecret(SECRET.value.hex().encode())
SETTINGS = """
models = [{ bundle = "b" }]
trusted_factories = ["sample_networks"]
state = "state"

[marks]
secret_file = "marks.secret"
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs `stingy marks` in a folder with settings and a secret."""
    make_bundle(tmp_path / "b")
    write_secret(tmp_path / "marks.secret")
    (tmp_path / "stingy.toml").write_text(SETTINGS, "utf-8")
    monkeypatch.chdir(tmp_path)
    Database(tmp_path / "state").close()
    return lambda *words: CliRunner().invoke(app, ["marks", *words])


def keep(state: Path, *numbers: int, key: str, marked: bool = True) -> None:
    with closing(Database(state)) as database, database.transaction(locks=LOCKS):
        for number in numbers:
            MarkStore(database, FILE_SECRET).add(
                evidence(number, key=key, marked=marked), kept=1000
            )


def test_state_without_marks(run: Run, tmp_path: Path) -> None:
    listed = run("list")
    assert (listed.exit_code, listed.stdout) == (0, "the state has no marks\n")
    refused = run("export", "exhibit")
    assert (refused.exit_code, "expected marks of digits, got none" in refused.stderr) == (2, True)
    assert not (tmp_path / "exhibit").exists()


def test_marks_are_counted_by_model_and_key(run: Run, tmp_path: Path) -> None:
    keep(tmp_path / "state", 1, 2, key="a")
    keep(tmp_path / "state", 3, key="a", marked=False)
    keep(tmp_path / "state", 4, key="b")
    rows = json.loads(run("list", "--json").stdout)
    counts = [(row["model"], row["key"], row["marked"], row["controls"]) for row in rows]
    assert counts == [("digits", "a", 2, 1), ("digits", "b", 1, 0)]
    assert "2026-01-02T00:00" in run("list").stdout


def test_marks_are_exported_and_forgotten(run: Run, tmp_path: Path) -> None:
    keep(tmp_path / "state", 1, 2, key="a")
    keep(tmp_path / "state", 3, key="b", marked=False)
    made = run("export", "exhibit")
    assert (made.exit_code, made.stderr) == (0, "")
    assert "exhibit has 2 marked inputs and 1 controls of digits" in made.stdout
    exhibit = read_exhibit(tmp_path / "exhibit")
    assert exhibit.digest in made.stdout
    assert run("export", "of-a", "--key", "a", "--model", "digits").exit_code == 0
    assert {item.key for item in read_exhibit(tmp_path / "of-a").items} == {"a"}
    assert "0 marked inputs" in run("forget", "--before", "2026-01-31").stdout
    assert "3 marked inputs" in run("forget", "--before", "2999-01-31").stdout
    with closing(Database(tmp_path / "state")) as database:
        events = [entry.event for _, entry in Ledger(database).entries()]
    assert events == ["marks_secret", *["marks_exported"] * 2, *["marks_forgotten"] * 2]
    assert run("list").stdout == "the state has no marks\n"


def test_faults_end_with_a_sentence(run: Run, tmp_path: Path) -> None:
    keep(tmp_path / "state", 1, key="a")
    cases = {
        ("export", "exhibit", "--model", "cats"): "--model: expected one of digits, got cats",
        ("forget", "--before", "soon"): "--before: expected a day such as 2026-01-31, got soon",
    }
    for words, sentence in cases.items():
        ended = run(*words)
        assert (ended.exit_code, ended.stderr.strip()) == (2, sentence)
    write_secret(tmp_path / "marks.secret", value=b"z" * 32)
    for words in (("list",), ("export", "exhibit")):
        ended = run(*words)
        assert (ended.exit_code, "expected the secret that" in ended.stderr) == (2, True)
    (tmp_path / "stingy.toml").write_text('state = "state"', "utf-8")
    ended = run("list")
    assert (ended.exit_code, "expected a secret_file in the settings" in ended.stderr) == (2, True)
