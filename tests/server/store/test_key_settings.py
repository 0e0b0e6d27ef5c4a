"""Changes of keys: made whole, counted for every process, and recorded in the ledger."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from stingy_server import Budgets, Database, Keys
from stingy_server.store.budgets import key_model_owner
from stingy_server.store.key import Caller, KeySettings, Limits
from stingy_server.store.ledger import Ledger


@pytest.fixture
def database(tmp_path: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(tmp_path / "state", store=store)) as database:
        yield database


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database)


def new_settings(before: KeySettings) -> KeySettings:
    key = replace(before.key, tier="partner", rate="9/minute", models=frozenset({"a", "b"}))
    return KeySettings(key, {"": Limits(7, None, 9), "a": Limits(per_day=3)})


def test_Q11_change_of_a_key_is_stored_counted_and_recorded(database: Database, keys: Keys) -> None:
    key, text = keys.create("k", budget=5, per_day=4)
    done = keys.set(key.id, new_settings, describe=lambda old, new: {"by": "alice@host"})
    assert done is not None
    before, after = done
    assert before == KeySettings(key, {"": Limits(5, 4, None)})
    caller = keys.authenticate(text)
    assert caller is not None
    assert caller.key == after.key
    assert (caller.key.tier, caller.key.rate, caller.changes) == ("partner", "9/minute", 1)
    assert (caller.key.models, caller.key.model_budgets) == (frozenset({"a", "b"}), ("a",))
    assert keys.limits(caller.key) == after.limits == {"": Limits(7, None, 9), "a": Limits(None, 3)}
    (entry,) = [entry for _, entry in Ledger(database).entries()]
    assert (entry.event, entry.key, entry.detail) == ("key_set", key.id, '{"by":"alice@host"}')


def test_faulty_or_empty_change_of_a_key_changes_nothing(database: Database, keys: Keys) -> None:
    key, text = keys.create("k", budget=5)
    with pytest.raises(ValueError, match="600/minute"):
        keys.set(
            key.id,
            lambda old: KeySettings(replace(old.key, tier="x", rate="often"), old.limits),
            describe=lambda old, new: {},
        )
    assert keys.set(key.id, new_settings, describe=lambda old, new: None) is not None
    assert keys.authenticate(text) == Caller(key, False, 0)
    assert [*Ledger(database).entries()] == []
    keys.revoke(key.id)
    assert keys.set(key.id, new_settings, describe=lambda old, new: {}) is None
    assert keys.set("absent", new_settings, describe=lambda old, new: {}) is None


def test_removed_model_budget_is_charged_no_more(database: Database, keys: Keys) -> None:
    key, _ = keys.create("k", budget=5, model_limits={"a": Limits(3), "b": Limits(4)})
    assert key.model_budgets == ("a", "b")
    assert Budgets(database).reserve([key_model_owner(key.id, "a")], 2)
    done = keys.set(
        key.id,
        lambda old: KeySettings(old.key, {"": old.limits[""], "b": Limits(9)}),
        describe=lambda old, new: {},
    )
    assert done is not None
    changed = done[1].key
    assert changed.model_budgets == ("b",)
    assert {model: own.total for model, own in keys.model_budgets(changed).items()} == {"b": 9}


def test_keys_are_found_by_id_then_by_name(keys: Keys) -> None:
    first, _ = keys.create("team", budget=1)
    assert keys.named("team") == keys.named(first.id) == [first]
    second, _ = keys.create("team", budget=1)
    assert keys.named("team") == [first, second]
    keys.revoke(first.id)
    assert keys.named("team") == [second]
    keys.revoke(second.id)
    assert [key.id for key in keys.named("team")] == [first.id, second.id]
    assert keys.named("absent") == []
    named_like, _ = keys.create(second.id, budget=1)
    assert [key.id for key in keys.named(second.id)] == [second.id]
    assert keys.named(named_like.id) == [named_like]
