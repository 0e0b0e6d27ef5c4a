"""Commands that only read: they upgrade no state, and wait for no process that writes."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from released import KEY_ID, RELEASED
from stingy_server import Database
from stingy_server.cli.main import app
from stingy_server.store.database import FILE

READING = [
    ("keys", "list"),
    ("keys", "usage", KEY_ID),
    ("ledger", "tail"),
    ("ledger", "export"),
    ("watch", "--once"),
    ("models", "list"),
]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a folder with a state of release 0.1.0."""
    return Path(shutil.copytree(RELEASED, tmp_path / "state"))


@pytest.fixture
def run(state: Path) -> Callable[[tuple[str, ...]], Result]:
    return lambda words: CliRunner().invoke(app, [*words, "--state", str(state)])


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_K7_reading_command_upgrades_no_state(
    words: tuple[str, ...], state: Path, run: Callable[[tuple[str, ...]], Result]
) -> None:
    before = (state / FILE).read_bytes()
    done = run(words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"expected state of version 4 in {state}, got 3: start a server" in done.stderr
    assert (state / FILE).read_bytes() == before


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_reading_command_waits_for_no_writer(
    words: tuple[str, ...], state: Path, run: Callable[[tuple[str, ...]], Result]
) -> None:
    Database(state).close()
    with closing(sqlite3.connect(state / FILE, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        done = run(words)
    assert (done.exit_code, done.stderr) == (0, "")
