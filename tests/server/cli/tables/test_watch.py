"""The text of `stingy watch` at 80 and 140 columns: an id is never cut."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stingy_server import Database, Keys
from stingy_server.cli.main import app
from stingy_server.detection.key_profiles import Action, KeyProfile, KeyProfileStore, Observation

NAME = "a customer with a name of 43 characters, !!"
CLEAR = Observation(images=300, novel=200, near=200, distances=b"", classes={}, bits=1.5e6)


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_watch_shows_the_whole_id_beside_a_long_name(tmp_path: Path, columns: int) -> None:
    with closing(Database(tmp_path / "state")) as database:
        key, _ = Keys(database).create(NAME, budget=1000)
        profiles = KeyProfileStore(database)
        profiles.add(key.id, CLEAR, alarm=0.9, ladder=[Action.REFUSE])
    done = CliRunner().invoke(
        app,
        ["watch", "--once", "--state", str(tmp_path / "state")],
        env={"COLUMNS": str(columns)},
    )
    lines = done.stdout.splitlines()
    assert columns == 60 or max(map(len, lines)) <= columns
    expected = "id name score step near cover norm bits images today ago"
    assert lines[0].split() == expected.split()
    cells = lines[1].split()
    assert (cells[0], cells[-2:]) == (key.id, [cells[-2], "s"])
    assert {"1.00", "refuse", "100%", "1.5M", "300"} <= set(cells)
    assert (NAME in lines[1]) == (columns == 140)


def test_watch_without_any_answer_says_so(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "state")):
        pass
    done = CliRunner().invoke(app, ["watch", "--once", "--state", str(tmp_path / "state")])
    assert done.stdout.splitlines()[-1] == "no key has got an answer yet"


def test_numbers_of_a_busy_key_stay_short() -> None:
    from stingy_server.cli.tables.watch import lines

    busy = replace(KeyProfile("0123abcd"), images=123_456_789, bits=4.9e12, normality=0.5)
    head, row = lines([busy], [])
    assert "123M" in row
    assert "4.9T" in row
    assert max(map(len, (head, row))) <= 80
