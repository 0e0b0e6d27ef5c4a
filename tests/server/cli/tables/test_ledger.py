"""`stingy ledger tail`: a table at 80 and 140 columns, one key alone, JSON, and new entries."""

import json
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from serving import STINGY, server_environment
from stingy_server import Database, Keys
from stingy_server.cli.main import app
from stingy_server.store.ledger import Entry, Ledger, event_entry

ENTRY = Entry(
    time="2026-11-26T12:15:38.123456+00:00",
    request="a1",
    key="",
    model="a-model-with-a-very-long-name-indeed",
    version="1",
    fingerprint="82a2befe7ba7",
    pixels="ff",
    images=5,
    answered=5,
    bits=158.04,
    status=200,
    event="answer",
    latency_us=12_340,
)
REFUSED = ENTRY._replace(
    event="budget_exhausted", status=429, answered=0, bits=0.0, requests=17, latency_us=1700
)
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs `stingy ledger tail` with these words."""

    def tail(*words: str, columns: int = 80) -> Result:
        arguments = ["ledger", "tail", *words, "--state", str(tmp_path / "state")]
        return CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)})

    return tail


def fill(state: Path) -> list[str]:
    """Write six entries of two keys and return the keys' ids."""
    with closing(Database(state)) as database:
        keys = [Keys(database).create(name, budget=None)[0].id for name in ("alice", "bob")]
        Ledger(database).append(
            *(ENTRY._replace(key=key) for key in keys),
            REFUSED._replace(key=keys[0]),
            event_entry(ENTRY.time, "released", key=keys[1], detail={"by": "olga@host"}),
            *(ENTRY._replace(key=key, images=1) for key in keys),
        )
    return keys


@pytest.mark.parametrize("columns", [80, 140])
def test_tail_is_a_table_of_one_line_an_entry(run: Run, tmp_path: Path, columns: int) -> None:
    alice, _ = fill(tmp_path / "state")
    lines = run(columns=columns).stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) == 7
    start = "seq time (UTC) key" if columns == 80 else "seq time (UTC) key name"
    assert " ".join(lines[0].split()).startswith(f"{start} event model images bits ms code")
    first = lines[1].split()
    assert first[:4] == ["1", "11-26", "12:15:38", alice]
    assert first[-4:] == ["5", "158.0", "12.3", "200"]
    assert ("alice" in first) == (columns == 140)
    refused = " ".join(lines[3].split())
    assert refused.startswith(f"3 11-26 12:15:38 {alice} ")
    assert refused.endswith(" 5 0.1 429")
    assert ("budget_exhausted x17" in refused) == (columns == 140)
    assert ("olga@host" in lines[4]) == (columns == 140)
    assert "released" in lines[4]


def test_tail_shows_the_last_entries_of_one_key(run: Run, tmp_path: Path) -> None:
    _, bob = fill(tmp_path / "state")
    for words in (("--key", "bob"), ("--key", bob)):
        shown = [json.loads(line) for line in run(*words, "--json", "-n", "2").stdout.splitlines()]
        assert [(entry["seq"], entry["key"]) for entry in shown] == [(4, bob), (6, bob)]
    unknown = run("--key", "nobody")
    assert unknown.exit_code == 2
    assert "expected the id or the name of a key, got nobody" in unknown.stderr


def test_tail_as_json_is_one_whole_entry_a_line(run: Run, tmp_path: Path) -> None:
    alice, _ = fill(tmp_path / "state")
    (first, *_) = run("--json").stdout.splitlines()
    assert json.loads(first) == {"seq": 1, **ENTRY._replace(key=alice)._asdict()}


def test_tail_of_an_empty_ledger_says_so(run: Run, tmp_path: Path) -> None:
    with closing(Database(tmp_path / "state")):
        pass
    assert run().stdout == "the ledger has no such entry\n"
    assert run("--json").stdout == ""


def test_tail_follows_the_new_entries_of_a_key(tmp_path: Path) -> None:
    alice, bob = fill(tmp_path / "state")
    process = subprocess.Popen(
        [*STINGY, "ledger", "tail", "--follow", "-n", "1", "--key", "alice", "--state", "state"],
        cwd=tmp_path,
        env=server_environment() | {"COLUMNS": "80"},
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        head, last = process.stdout.readline(), process.stdout.readline()
        assert (head.split()[0], last.split()[0]) == ("seq", "5")
        with closing(Database(tmp_path / "state")) as database:
            Ledger(database).append(ENTRY._replace(key=bob), ENTRY._replace(key=alice, images=77))
        new = process.stdout.readline()
        assert (new.split()[0], new.split()[-4]) == ("8", "77")
        # The parts of the table stand below each other.
        assert new.index(alice) == last.index(alice)
    finally:
        watchdog.cancel()
        process.terminate()
        process.communicate(timeout=10)
