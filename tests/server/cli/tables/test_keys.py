"""The text of `stingy keys list` and `stingy keys usage` at 80 and 140 columns."""

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stingy_server import Budgets, Database, Keys
from stingy_server.cli.main import app
from stingy_server.detection.key_profiles import Action, KeyProfileStore, Observation
from stingy_server.store.budgets import key_owner

NAME = "a customer with a name of 43 characters, !!"
CLEAR = Observation(images=300, novel=200, near=200, distances=b"", classes={}, bits=4500.0)
Show = Callable[..., list[str]]


@pytest.fixture
def show(tmp_path: Path) -> Show:
    """Return `show("keys", "list", columns=80)`, the lines that a command prints."""

    def lines(*words: str, columns: int) -> list[str]:
        arguments = [*words, "--state", str(tmp_path / "state")]
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)})
        assert done.exit_code == 0, done.output
        return done.stdout.splitlines()

    return lines


@pytest.fixture
def ids(tmp_path: Path) -> list[str]:
    """Make a suspended key, a revoked one, an unused one."""
    with closing(Database(tmp_path / "state")) as database:
        keys = Keys(database)
        made = [
            keys.create(NAME, budget=100_000, per_day=500, rate="600/minute", tier="partner")[0],
            keys.create("[red]bob[/red]", budget=None)[0],
            keys.create("carol", budget=20)[0],
        ]
        assert Budgets(database).reserve([key_owner(made[0].id)], 300)
        KeyProfileStore(database).add(made[0].id, CLEAR, alarm=0.9, ladder=[Action.REFUSE])
        assert keys.revoke(made[1].id)
    return [key.id for key in made]


@pytest.mark.parametrize("columns", [80, 140])
def test_list_shows_states_rates_days_and_bits(show: Show, ids: list[str], columns: int) -> None:
    lines = show("keys", "list", columns=columns)
    assert max(map(len, lines)) <= columns
    heads = ["id", "name", "tier", "total", "day", "month", "bits", "state", "last"]
    assert lines[0].split() == heads
    rows = {line.split()[0]: line for line in lines if line.split()[0] in ids}
    assert list(rows) == ids
    assert re.search(r" 300/100k +300/500 +300/- +15\.0 +suspended +\d+ s$", rows[ids[0]])
    assert re.search(r" 0/- +0/- +0/- +- +revoked +never$", rows[ids[1]])
    assert "[red]bob[/" in rows[ids[1]]
    assert re.search(r" 0/20 +0/- +0/- +- +valid +never$", rows[ids[2]])
    assert (NAME in rows[ids[0]]) == (columns == 140)
    assert any("rate 600/minute" in line for line in lines)


def test_numbers_of_the_list_stand_to_the_right(show: Show, ids: list[str]) -> None:
    lines = [line for line in show("keys", "list", columns=140) if not line.startswith("   ")]
    for head in ("total", "day", "month", "bits"):
        end = lines[0].index(head) + len(head)
        assert all(line[end - 1] != " " and line[end : end + 1] in ("", " ") for line in lines), (
            head
        )


@pytest.mark.parametrize("columns", [80, 140])
def test_usage_names_the_key_and_aligns_numbers(show: Show, ids: list[str], columns: int) -> None:
    lines = show("keys", "usage", ids[0], columns=columns)
    assert max(map(len, lines)) <= columns
    assert lines[0] == f"{NAME}, key {ids[0]}, tier partner"
    assert lines[1].split() == ["models", "period", "used", "budget", "left", "resets", "(UTC)"]
    cells = [line.split() for line in lines[2:]]
    assert cells[0] == ["all", "in", "all", "300", "100,000", "99,700"]
    assert cells[1][:5] == ["all", "day", "300", "500", "200"]
    assert re.fullmatch(r"all month 300 no limit \d{4}-\d\d-\d\d \d\d:\d\d", " ".join(cells[2]))
    end = lines[1].index("used") + 4
    assert [line[:end].split()[-1] for line in lines[2:]] == ["300"] * 3
