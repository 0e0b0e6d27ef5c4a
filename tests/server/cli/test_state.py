"""`stingy state` and `stingy ledger` as an operator types them, on a file and on a PostgreSQL."""

import json
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ledgers import ENTRY, change_by_hand
from serving import STINGY, server_environment
from stingy_server import Database
from stingy_server.store.ledger import Ledger

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, store: str | None) -> Run:
    """Return a function that runs a command on the state folder of this name."""

    def command(*words: str, state: str = "state") -> "subprocess.CompletedProcess[str]":
        environment = server_environment() | ({} if store is None else {"STINGY_STORE": store})
        return subprocess.run(
            [*STINGY, *words, "--state", state],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return command


def test_day_of_an_operator(run: Run, tmp_path: Path, store: str | None) -> None:
    created = json.loads(run("keys", "create", "alice", "--budget", "9", "--json").stdout)
    checked = run("state", "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.endswith("no fault\n")
    made = run("state", "backup", "monday")
    assert (made.returncode, made.stderr) == (0, "")
    assert run("keys", "revoke", created["id"]).returncode == 0

    refused = run("state", "restore", "monday")
    assert (refused.returncode, "--replace" in refused.stderr) == (2, True)
    restored = run("state", "restore", "monday", "--replace")
    assert (restored.returncode, restored.stderr) == (0, "")
    assert f"key {created['id']} (alice): revoked after the backup" in restored.stdout
    (key,) = json.loads(run("keys", "list", "--json").stdout)
    assert key["revoked"] is None

    if store is None:
        elsewhere = run("state", "restore", "monday", state="elsewhere")
        assert (elsewhere.returncode, "unnamed" in elsewhere.stdout) == (0, True)


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
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "4 entries are linked" in verified.stdout
    assert "no head that was kept elsewhere" in run("ledger", "verify").stdout

    pruned = run("ledger", "prune", "--before", "2026-02-01")
    assert (pruned.returncode, pruned.stdout) == (0, "3 entries are deleted, up to number 3\n")
    assert "no entry is older" in run("ledger", "prune", "--before", "2026-02-01").stdout
    assert run("ledger", "prune", "--before", "2999-01-01").returncode == 2
    lines = [json.loads(line) for line in run("ledger", "export").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["answer", "pruned"]
    assert run("ledger", "verify", "--against", "heads").returncode == 0

    change_by_hand(tmp_path / "state", store, "UPDATE ledger SET images = 0 WHERE seq = 4")
    broken = run("ledger", "verify")
    assert (broken.returncode, "entry 4, number 4" in broken.stderr) == (2, True)
    assert run("state", "check").returncode == 2


@pytest.mark.parametrize(
    "words",
    [
        ("state", "backup", "monday"),
        ("state", "check"),
        ("ledger", "head"),
        ("ledger", "verify"),
        ("state", "restore", "absent"),
    ],
)
def test_fault_ends_a_command_with_a_sentence(run: Run, tmp_path: Path, words: tuple[str]) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected" in done.stderr
    assert "Traceback" not in done.stderr
    assert [*tmp_path.iterdir()] == []
