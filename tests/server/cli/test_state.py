"""`stingy state` and `stingy ledger` as an operator types them, on a file and on a PostgreSQL."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ledgers import ENTRY, change_by_hand
from stingy_server import Database
from stingy_server.cli.main import app
from stingy_server.store.ledger import Ledger

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, store: str | None, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command on the state folder of this name."""
    monkeypatch.chdir(tmp_path)
    if store is not None:
        monkeypatch.setenv("STINGY_STORE", store)

    def command(*words: str, state: str = "state") -> Result:
        return CliRunner().invoke(app, [*words, "--state", state])

    return command


def test_day_of_an_operator(run: Run, tmp_path: Path, store: str | None) -> None:
    created = json.loads(run("keys", "create", "alice", "--budget", "9", "--json").stdout)
    checked = run("state", "check")
    assert (checked.exit_code, checked.stderr) == (0, "")
    assert checked.stdout.endswith("no fault\n")
    made = run("state", "backup", "backups/monday")
    assert (made.exit_code, made.stderr) == (0, "")
    assert run("keys", "revoke", created["id"]).exit_code == 0

    refused = run("state", "restore", "backups/monday")
    assert (refused.exit_code, "--replace" in refused.stderr) == (2, True)
    restored = run("state", "restore", "backups/monday", "--replace")
    assert (restored.exit_code, restored.stderr) == (0, "")
    assert f"key {created['id']} (alice): revoked after the backup" in restored.stdout
    (key,) = json.loads(run("keys", "list", "--json").stdout)
    assert key["revoked"] is None

    if store is None:
        elsewhere = run("state", "restore", "backups/monday", state="elsewhere")
        assert (elsewhere.exit_code, "unnamed" in elsewhere.stdout) == (0, True)


def test_ledger_is_verified_against_kept_heads_and_pruned(
    run: Run, tmp_path: Path, store: str | None
) -> None:
    with closing(Database(tmp_path / "state", store=store)) as database:
        Ledger(database).append(*[ENTRY._replace(time="2026-01-01T00:00:00.000000+00:00")] * 3)
        Ledger(database).append(ENTRY)
    head = run("ledger", "head")
    assert json.loads(head.stdout)["number"] == 4
    (tmp_path / "heads").write_text(head.stdout)
    verified = run("ledger", "verify", "--against", "heads")
    assert (verified.exit_code, verified.stderr) == (0, "")
    assert "4 entries are linked" in verified.stdout
    assert "no head that was kept elsewhere" in run("ledger", "verify").stdout

    pruned = run("ledger", "prune", "--before", "2026-02-01")
    assert pruned.exit_code == 0
    assert re.fullmatch(r"3 entries are deleted, up to number 3, [\d,]+ a second\n", pruned.stdout)
    assert "no entry is older" in run("ledger", "prune", "--before", "2026-02-01").stdout
    assert run("ledger", "prune", "--before", "2999-01-01").exit_code == 2
    lines = [json.loads(line) for line in run("ledger", "export").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["answer", "pruned"]
    assert run("ledger", "verify", "--against", "heads").exit_code == 0

    change_by_hand(tmp_path / "state", store, "UPDATE ledger SET images = 0 WHERE seq = 4")
    broken = run("ledger", "verify")
    assert (broken.exit_code, "entry 4, number 4" in broken.stderr) == (2, True)
    assert run("state", "check").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("state", "backup", "backups/monday"),
        ("state", "check"),
        ("ledger", "head"),
        ("ledger", "verify"),
        ("state", "restore", "absent"),
    ],
)
def test_fault_ends_a_command_with_a_sentence(run: Run, tmp_path: Path, words: tuple[str]) -> None:
    done = run(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "expected" in done.stderr
    assert isinstance(done.exception, SystemExit)
    assert [*tmp_path.iterdir()] == []


def test_backup_of_a_broken_ledger_warns_of_its_restore(
    run: Run, tmp_path: Path, store: str | None
) -> None:
    with closing(Database(tmp_path / "state", store=store)) as database:
        Ledger(database).append(ENTRY, ENTRY)
    change_by_hand(tmp_path / "state", store, "DELETE FROM ledger WHERE number = 1")
    made = run("state", "backup", "backup")
    assert made.exit_code == 0
    assert "warning: its ledger is broken, and a restore refuses it: chain" in made.stderr
