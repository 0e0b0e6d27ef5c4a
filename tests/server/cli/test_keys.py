"""`stingy keys`: create, set, list and names in place of ids."""

import json
import os
import pwd
import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stingy_server import Budgets, Database, Keys
from stingy_server.cli.command import MAX_COUNT
from stingy_server.cli.main import app
from stingy_server.detection.key_profiles import Action, KeyProfileStore, Observation
from stingy_server.store.budgets import key_model_owner, key_owner
from stingy_server.store.deployments import Deployments, Report
from stingy_server.store.ledger import Ledger

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return `run("list")`, which runs `stingy keys list` on a state with the tier partner."""
    config = tmp_path / "stingy.toml"
    config.write_text('state = "state"\n[tiers.partner]\nclasses = 1\n')

    def run_keys(*words: str, columns: int = 80) -> Result:
        arguments = ["keys", *words, "--config", str(config)]
        return CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)})

    return run_keys


def created(run: Run, name: str, *options: str) -> str:
    done = run("create", name, "--json", *options)
    assert done.exit_code == 0, done.output
    return str(json.loads(done.stdout)["id"])


def listed(run: Run) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = json.loads(run("list", "--json").stdout)
    return shown


def test_set_prints_each_change_before_and_after(run: Run, tmp_path: Path) -> None:
    key = created(run, "alice", "--budget", "500")
    done = run(
        *("set", "alice", "--budget", "1000", "--per-day", "50", "--tier", "partner"),
        *("--rate", "600/minute", "--days", "30", "--models", "dogs,cats"),
        *("--model-budget", "cats=10", "--model-per-month", "cats=5"),
    )
    assert done.exit_code == 0, done.output
    lines = [re.sub(" +", " ", line).strip() for line in done.stdout.splitlines()]
    expires = lines.pop(3)
    assert re.fullmatch(r"expires never → 20\d\d-\d\d-\d\d \d\d:\d\d", expires)
    assert lines == [
        f"{key} (alice)",
        "tier full → partner",
        "rate none → 600/minute",
        "models all → cats, dogs",
        "budget 500 → 1000",
        "per day none → 50",
        "cats budget none → 10",
        "cats per month none → 5",
    ]
    (shown,) = listed(run)
    assert (shown["budget"], shown["day"]["budget"], shown["month"]["budget"]) == (1000, 50, None)
    assert shown["models"] == ["cats", "dogs"]
    assert shown["model_budgets"]["cats"]["month"]["budget"] == 5
    with closing(Database(tmp_path / "state")) as database:
        entries = [entry for _, entry in Ledger(database).entries()]
    assert [entry.event for entry in entries] == ["key_created", "key_set"]
    user = pwd.getpwuid(os.getuid()).pw_name
    detail = json.loads(entries[1].detail or "")
    assert detail["by"].startswith(f"{user}@")
    assert detail["changes"]["budget"] == ["500", "1000"]
    assert detail["changes"]["per day"] == ["none", "50"]


def test_set_removes_limits_by_the_word_none(run: Run) -> None:
    created(
        run,
        "alice",
        *("--budget", "5", "--per-month", "4", "--rate", "9/minute", "--days", "3"),
        *("--models", "cats", "--model-per-day", "cats=2"),
    )
    done = run(
        *("set", "alice", "--budget", "none", "--per-month", "none", "--rate", "none"),
        *("--days", "none", "--all-models", "--model-per-day", "cats=none", "--json"),
    )
    changes = json.loads(done.stdout)["changes"]
    assert set(changes) == {"rate", "expires", "models", "budget", "per month", "cats per day"}
    assert changes["budget"] == {"before": "5", "after": "none"}
    (shown,) = listed(run)
    names = ("budget", "rate", "expires", "models")
    assert [shown[name] for name in names] == [None] * 4
    assert (shown["month"]["budget"], shown["model_budgets"]) == (None, {})


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "expected an option that changes the key"),
        (("--budget", "0"), "--budget: expected a number from 1 to"),
        (("--budget", "-5"), "--budget: expected a number from 1 to"),
        (("--per-day", "9" * 5000), "--per-day: expected a number from 1 to"),
        (("--days", "99999"), "--days: expected a number from 1 to 36500"),
        (("--tier", "gold"), "expected one of the tiers full, partner, got gold"),
        (("--rate", "often"), "--rate: expected a rate such as 600/minute, got 'often'"),
        (("--request-rate", "0/second"), "--request-rate: expected a rate of 1 to 1000000000"),
        (("--models", "cats dogs"), "--models: expected names with commas between"),
        (("--models", "cats", "--all-models"), "expected --models or --all-models, got both"),
        (("--model-budget", "5"), "--model-budget: expected MODEL=N, got 5"),
        (("--model-per-day", "cats="), "--model-per-day of cats: expected a number"),
    ],
)
def test_set_with_a_fault_changes_nothing(run: Run, words: tuple[str, ...], text: str) -> None:
    created(run, "alice", "--budget", "5")
    before = listed(run)
    done = run("set", "alice", *words)
    assert done.exit_code == 2
    assert text in done.stderr
    assert listed(run) == before


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("",), "expected a name of 1 to 64 printable characters, got an empty one"),
        (("a" * 65,), "expected a name of 1 to 64 printable characters, got 65"),
        (("a\nb",), "expected a name of 1 to 64 printable characters, got others"),
        (("bob", "--budget", "-1"), "--budget: expected a number from 1 to"),
        (("bob", "--rate", "5"), "--rate: expected a rate such as 600/minute, got '5'"),
        (("bob", "--tier", "gold"), "expected one of the tiers full, partner, got gold"),
    ],
)
def test_create_with_a_fault_makes_no_state(
    run: Run, tmp_path: Path, words: tuple[str, ...], text: str
) -> None:
    done = run("create", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert text in done.stderr
    assert not (tmp_path / "state").exists()


def test_model_that_no_running_server_serves_is_pointed_out(run: Run, tmp_path: Path) -> None:
    words = ("--models", "cats,dgos", "--model-budget", "fish=5", "--model-per-day", "cats=9")
    assert run("create", "alice", *words).stderr.count("note:") == 0  # no server runs
    with closing(Database(tmp_path / "state")) as database:
        report = Report("p", "cats", "1", "stingy", None, None, time.time())
        Deployments(database).report("p", [report])
    for command in (("create", "bob"), ("set", "alice")):
        done = run(*command, *words)
        assert done.exit_code == 0
        assert "note: no running server serves dgos, fish\n" in done.stderr
    assert "note:" not in run("set", "alice", "--model-budget", "fish=none").stderr


def test_set_of_a_key_with_an_unreadable_rate_names_the_rate(run: Run, tmp_path: Path) -> None:
    key = created(run, "alice", "--rate", "600/minute")
    with closing(Database(tmp_path / "state")) as database:
        database.execute("UPDATE keys SET rate = 'often'")
    done = run("set", "alice", "--budget", "5")
    assert done.exit_code == 2
    assert f"{key} has a rate that cannot be read: give a new one too" in done.stderr
    assert run("set", "alice", "--budget", "5", "--rate", "9/day").exit_code == 0


def test_set_to_the_present_settings_writes_nothing(run: Run, tmp_path: Path) -> None:
    key = created(run, "alice", "--budget", "5")
    assert run("set", key, "--budget", "5").stdout == f"{key} (alice) has these settings already.\n"
    with closing(Database(tmp_path / "state")) as database:
        assert len([*Ledger(database).entries()]) == 1
        assert Keys(database).changes() == 0


def test_budget_below_what_is_used_is_pointed_out(run: Run, tmp_path: Path) -> None:
    key = created(run, "alice", "--budget", "50")
    with closing(Database(tmp_path / "state")) as database:
        assert Budgets(database).reserve([key_owner(key)], 20)
    assert "It has used 20 images, so it gets no more." in run("set", key, "--budget", "9").stderr


@pytest.mark.parametrize("command", ["set", "usage", "rotate", "revoke", "release"])
def test_name_of_several_keys_is_refused_with_their_ids(run: Run, command: str) -> None:
    ids = [created(run, "team") for _ in range(2)]
    more = ["--budget", "5"] if command == "set" else []
    done = run(command, "team", *more)
    assert done.exit_code == 2
    assert f"give one of the ids {', '.join(ids)}" in done.stderr
    unknown = run(command, "nobody", *more)
    assert unknown.exit_code == 2
    assert "got nobody" in unknown.stderr


def test_unique_name_is_taken_for_the_id(run: Run, tmp_path: Path) -> None:
    key = created(run, "alice", "--budget", "5")
    assert json.loads(run("usage", "alice", "--json").stdout)["id"] == key
    assert json.loads(run("rotate", "alice", "--json").stdout)["id"] == key
    with closing(Database(tmp_path / "state")) as database:
        clear = Observation(images=300, novel=200, near=200, distances=b"", classes={})
        KeyProfileStore(database).add(key, clear, alarm=0.9, ladder=[Action.REFUSE])
    assert listed(run)[0]["alarm"] == "refuse"
    assert run("release", "alice").stdout == f"{key} is released.\n"
    assert run("revoke", "alice").stdout == f"{key} is revoked.\n"
    assert f"{key} was revoked already, on 20" in run("revoke", "alice").stderr
    assert f"{key} was revoked already" in run("set", "alice", "--budget", "5").stderr
    other = created(run, "alice")
    assert json.loads(run("usage", "alice", "--json").stdout)["id"] == other
    with closing(Database(tmp_path / "state")) as database:
        events = [(entry.event, entry.key) for _, entry in Ledger(database).entries()]
    expected = ["key_created", "key_rotated", "alarm_refuse", "released", "key_revoked"]
    assert events == [*((event, key) for event in expected), ("key_created", other)]


def test_list_shows_all_of_a_key_within_80_columns(run: Run, tmp_path: Path) -> None:
    key = created(
        run,
        "a customer with quite a long name, of 60 characters in all!!",
        *("--budget", str(MAX_COUNT), "--per-day", "123456", "--per-month", "9999999"),
        *("--tier", "partner", "--rate", "600/minute", "--request-rate", "20/second"),
        *("--days", "10", "--models", "cats,dogs,horses", "--model-budget", "cats=12345"),
    )
    plain = created(run, "bob")
    with closing(Database(tmp_path / "state")) as database:
        owners = [key_owner(key), key_model_owner(key, "cats")]
        assert Budgets(database).reserve(owners, 12_345)
        clear = Observation(images=300, novel=200, near=200, distances=b"", classes={})
        KeyProfileStore(database).add(key, clear, alarm=0.9, ladder=[Action.LABELS])
    lines = run("list").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    heads = ["id", "name", "tier", "total", "day", "month", "bits", "state", "last"]
    assert lines[0].split() == heads
    cells = lines[1].split()
    assert (cells[0], cells[-3], cells[-1]) == (key, "labels", "s")
    assert {"partner", "12.3k/4.61E", "12.3k/123k", "12.3k/9.99M"} <= set(cells)
    about = " ".join(" ".join(lines[2:-1]).split())
    assert re.fullmatch(
        r"expires 20\S+; models cats, dogs, horses; rate 600/minute; requests 20/second; "
        r"cats 12.3k/12.3k in all",
        about,
    )
    assert lines[-1].split() == [plain, "bob", "full", *["0/-"] * 3, "-", "valid", "never"]


def test_list_shows_no_control_characters_of_a_name(run: Run, tmp_path: Path) -> None:
    created(run, "[red]x[/red]")
    assert "[red]x[/red]" in run("list").stdout


def test_usage_shows_every_limit_and_its_reset(run: Run) -> None:
    created(run, "alice", "--budget", "5000", "--model-per-day", "cats=7")
    shown = run("usage", "alice", columns=120).stdout
    assert re.search(r"all +in all +0 +5,000 +5,000\n", shown)
    assert re.search(r"cats +day +0 +7 +7 +20\S+ 00:00\n", shown)
