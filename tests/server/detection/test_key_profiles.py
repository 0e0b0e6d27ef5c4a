"""Evidence becomes a score, an alarm becomes an action, and the state stores both."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stingy_server import Database
from stingy_server.cli.main import app as cli
from stingy_server.detection.key_profiles import (
    PATIENCE,
    Action,
    KeyProfile,
    KeyProfileStore,
    Observation,
    coverage,
    escalate,
    lower_bound,
    merged,
    normality,
    score,
)
from stingy_server.settings import WatchSettings
from stingy_server.store.ledger import Ledger


def test_coverage_is_one_over_all_classes_and_zero_over_one() -> None:
    assert coverage({"m": (4, {"0": 5, "1": 5, "2": 5, "3": 5})}) == pytest.approx(1)
    assert coverage({"m": (4, {"0": 9})}) == 0
    assert coverage({"m": (4, {"0": 9}), "n": (2, {"0": 8, "1": 8})}) == pytest.approx(1)


def test_normality_separates_a_bell_from_two_heaps() -> None:
    random = np.random.default_rng(0)
    bell = random.normal(40, 8, 200).astype(np.uint8).tobytes()
    heaps = np.concatenate([np.full(100, 2), np.full(100, 40)]).astype(np.uint8).tobytes()
    assert normality(bell[:99]) is None
    assert (normality(bell) or 0) > 0.97
    assert (normality(heaps) or 1) < 0.75


@given(
    novel=st.floats(0, 1e6),
    share=st.floats(0, 1),
    bell=st.one_of(st.none(), st.floats(0, 1)),
    classes_covered=st.floats(0, 1),
    budget_used_today=st.floats(0, 1),
)
def test_no_default_alarm_without_near_duplicates(
    novel: float, share: float, bell: float | None, classes_covered: float, budget_used_today: float
) -> None:
    row = KeyProfile(
        "k",
        novel=novel,
        normality=bell,
        coverage=classes_covered,
        budget_used_today=budget_used_today,
    )
    assert 0 <= score(row) < WatchSettings().alarm
    with_duplicates = KeyProfile(
        "k",
        novel=novel,
        near=novel * share,
        normality=bell,
        coverage=classes_covered,
        budget_used_today=budget_used_today,
    )
    assert score(row) <= score(with_duplicates) <= 1


def test_few_images_give_a_low_score() -> None:
    assert lower_bound(1, 1) < 0.21
    assert score(KeyProfile("k", novel=40, near=40)) == 0
    assert score(KeyProfile("k", novel=60, near=2)) < 0.5
    assert score(KeyProfile("k", novel=300, near=100)) == 1


@given(st.lists(st.integers(0, 200), min_size=1, max_size=6))
def test_answered_images_are_counted_exactly_in_any_split(parts: list[int]) -> None:
    row = KeyProfile("k")
    for part in parts:
        observation = Observation(images=part, bits=part / 2, novel=part, near=part // 3)
        row = merged(row, observation, budget_used_today=0)
    assert row.images == sum(parts)
    assert row.bits == pytest.approx(sum(parts) / 2)
    assert row.novel <= sum(parts) + 1e-9
    assert row.near <= row.novel + 1e-9


LADDER = (Action.LABELS, Action.REFUSE)


def next_action(
    action: Action,
    ladder: tuple[Action, ...],
    *,
    score: float = 1.0,
    images: int = 0,
    since: int = 0,
) -> Action:
    row = KeyProfile("k", score=score, action=action, images=images, since=since)
    return Action(escalate(row, alarm=0.9, ladder=ladder).action)


def test_ladder_escalates_one_step_at_a_time() -> None:
    assert next_action(Action.NONE, LADDER, score=0.89) is Action.NONE
    assert next_action(Action.NONE, LADDER) is Action.LABELS
    assert next_action(Action.LABELS, LADDER, images=PATIENCE - 1) is Action.LABELS
    assert next_action(Action.LABELS, LADDER, images=PATIENCE) is Action.REFUSE
    assert next_action(Action.REFUSE, LADDER, images=10 * PATIENCE) is Action.REFUSE
    assert next_action(Action.NONE, ()) is Action.ALARM
    assert next_action(Action.ALARM, (), images=10 * PATIENCE) is Action.ALARM
    assert next_action(Action.ALARM, LADDER) is Action.LABELS


@given(
    st.sampled_from(Action),
    st.lists(st.sampled_from([Action.MARK, Action.LABELS, Action.REFUSE]), max_size=3),
    st.integers(0, 1000),
)
def test_alarm_never_loosens_the_action(action: Action, ladder: list[Action], images: int) -> None:
    order = list(Action)
    assert order.index(next_action(action, tuple(ladder), images=images)) >= order.index(action)


@pytest.fixture
def database(tmp_path: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(tmp_path / "state", store=store)) as database:
        yield database


CLEAR = Observation(images=300, novel=300, near=200)


def test_two_processes_alarm_once_and_the_ledger_has_it(database: Database) -> None:
    with closing(database.reopen()) as other:
        for each in (database, other, database):
            KeyProfileStore(each).add("k", CLEAR, alarm=0.9, ladder=[Action.LABELS])
    assert KeyProfileStore(database).get("k").images == 900
    assert KeyProfileStore(database).actions() == {"k": Action.LABELS}
    assert [(e.key, e.event) for _, e in Ledger(database).entries()] == [("k", "alarm_labels")]


def test_release_resets_the_profile_and_is_in_the_ledger(database: Database) -> None:
    profiles = KeyProfileStore(database)
    profiles.add("k", CLEAR, alarm=0.9, ladder=[])
    assert profiles.release("k")
    assert not profiles.release("k")
    row = profiles.get("k")
    assert (row.action, row.score, row.near, row.images) == ("none", 0, 0, 300)
    events = [entry.event for _, entry in Ledger(database).entries()]
    assert events == ["alarm", "released"]


def test_cli_shows_a_suspended_key_and_releases_it_once(
    database: Database, store: str | None, tmp_path: Path
) -> None:
    KeyProfileStore(database).add("abcd", CLEAR, alarm=0.9, ladder=[Action.REFUSE])
    config = tmp_path / "stingy.toml"
    config.write_text("" if store is None else f'store = "{store}"')
    state = ["--state", str(tmp_path / "state"), "--config", str(config)]
    shown_json = CliRunner().invoke(cli, ["watch", "--once", "--json", *state])
    (row,) = json.loads(shown_json.stdout)
    assert (row["id"], row["step"], row["score"], row["images"]) == ("abcd", "refuse", 1.0, 300)
    shown = CliRunner().invoke(cli, ["watch", "--once", *state], env={"COLUMNS": "200"})
    assert "abcd" in shown.stdout
    assert "67%" in shown.stdout
    assert CliRunner().invoke(cli, ["keys", "release", "abcd", *state]).exit_code == 0
    assert CliRunner().invoke(cli, ["keys", "release", "abcd", *state]).exit_code == 2


@pytest.mark.parametrize(
    ("then", "ladder"),
    [
        ("nothing", ()),
        ("labels", ("labels",)),
        ("refuse", ("refuse",)),
        ("mark", ("mark",)),
        (["labels", "refuse"], ("labels", "refuse")),
        (["mark", "labels"], ("mark", "labels")),
    ],
)
def test_then_setting_is_one_step_or_a_ladder(then: Any, ladder: tuple[str, ...]) -> None:
    assert WatchSettings(then=then).ladder == ladder
