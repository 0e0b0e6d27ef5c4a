"""Budgets: exact under many processes, all or nothing over several owners and days."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from budget_machine import BudgetMachine
from checks import granted_to_processes
from serving import spend
from stingy_server import Budgets, Database, Keys
from stingy_server.store import budgets
from stingy_server.store.budgets import key_owner
from stingy_server.times import DAY_S, today


@pytest.fixture
def database(tmp_path: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(tmp_path / "state", store=store)) as database:
        yield database


@pytest.fixture
def books(database: Database) -> Budgets:
    return Budgets(database)


def used(books: Budgets, owner: str) -> int:
    budget = books.get(owner)
    assert budget is not None
    return budget.used


def test_Q1_four_processes_spend_exactly_the_budget(
    database: Database, store: str | None, tmp_path: Path
) -> None:
    key, _ = Keys(database).create("shared", budget=5000)
    spending = partial(spend, store=store)
    total = granted_to_processes(spending, tmp_path / "state", key.id, tries=2000, processes=4)
    assert total == 5000
    assert used(Budgets(database), key_owner(key.id)) == 5000


def test_Q3_batch_over_budget_charges_nothing(books: Budgets) -> None:
    books.set("key:a", total=10, day_total=None)
    assert books.reserve(["key:a"], 3)
    assert books.reserve(["key:a"], 8) is None
    assert used(books, "key:a") == 3
    assert books.reserve(["key:a"], 7)


def test_owners_are_all_charged_or_none_is(books: Budgets) -> None:
    books.set("key:a", total=None, day_total=None)
    books.set("model:m", total=5, day_total=None)
    assert books.reserve(["key:a", "model:m"], 5)
    assert books.reserve(["key:a", "model:m"], 1) is None
    assert (used(books, "key:a"), used(books, "model:m")) == (5, 5)
    assert books.reserve(["key:a"], 1)
    assert books.reserve(["key:absent"], 1) is None


@pytest.mark.parametrize("shared", [1, 2])
def test_Q1_concurrent_charges_of_owners_are_all_or_nothing(
    books: Budgets, store: str | None, tmp_path: Path, shared: int
) -> None:
    """Charge six keys with a budget each beside one or two budgets that all of them share."""
    common = [f"model:{number}" for number in range(shared)]
    books.set("model:0", total=None, day_total=None, month_total=200)
    books.set("model:1", total=None, day_total=210)
    owners = [f"key:{number}" for number in range(6)]
    for owner in owners:
        books.set(owner, total=50, day_total=None)

    def spend_all(owner: str) -> int:
        with closing(Database(tmp_path / "state", store=store, lock_timeout_s=60)) as own:
            granted = 0
            for _ in range(60):
                granted += Budgets(own).reserve([owner, *common], 1) is not None
            return granted

    with ThreadPoolExecutor(len(owners)) as threads:
        granted = list(threads.map(spend_all, owners))
    assert {sum(granted)} == {used(books, name) for name in common} == {200}
    assert granted == [used(books, owner) for owner in owners]


def test_Q3_batch_over_one_of_three_budgets_charges_none(books: Budgets) -> None:
    owners = ["key:a", "model:m", "both:a:m"]
    for owner in owners:
        books.set(owner, total=100, day_total=100)
    books.set("both:a:m", total=100, day_total=None, month_total=5)
    assert books.reserve(owners, 6) is None
    assert books.reserve([*owners[:2], "both:absent"], 1) is None
    assert [used(books, owner) for owner in owners] == [0, 0, 0]
    charged = books.reserve(owners, 5)
    assert charged is not None
    assert books.reserve(owners, 1) is None
    books.refund(charged)
    assert [used(books, owner) for owner in owners] == [0, 0, 0]
    assert books.reserve(owners, 5)


def test_Q6_day_opens_once_even_if_the_clock_is_set_back(
    books: Budgets, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.set("key:a", total=None, day_total=10)

    def on_day(day: int) -> int:
        monkeypatch.setattr(budgets, "today", lambda: day)
        granted = 0
        while books.reserve(["key:a"], 1):
            granted += 1
        return granted

    assert [on_day(day) for day in (5, 5, 6, 5, 6, 7, 6, 7)] == [10, 0, 10, 0, 0, 10, 0, 0]


def test_Q6_month_opens_once_even_if_the_clock_is_set_back(
    books: Budgets, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.set("key:a", total=None, day_total=None, month_total=10)

    def granted_on(date: str) -> int:
        monkeypatch.setattr(budgets, "today", lambda: day_of(date))
        granted = 0
        while books.reserve(["key:a"], 1):
            granted += 1
        return granted

    dates = ("2026-01-30", "2026-01-31", "2026-02-01", "2026-01-31", "2026-02-28", "2026-03-01")
    assert [granted_on(date) for date in dates] == [10, 0, 10, 0, 0, 10]


def day_of(date: str) -> int:
    return int(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()) // DAY_S


@pytest.mark.parametrize("refunded_on", [5, 6, 7, 40])
def test_Q6_refund_goes_to_the_day_that_counted_the_charge(
    books: Budgets, monkeypatch: pytest.MonkeyPatch, refunded_on: int
) -> None:
    """Charge two owners after the clock was set back: one of them was charged on day 7 before."""
    for owner in ("key:a", "model:m"):
        books.set(owner, total=None, day_total=10, month_total=10)
    monkeypatch.setattr(budgets, "today", lambda: 7)
    assert books.reserve(["key:a"], 1)
    monkeypatch.setattr(budgets, "today", lambda: 6)
    charged = books.reserve(["model:m", "key:a"], 4)
    assert charged is not None
    monkeypatch.setattr(budgets, "today", lambda: refunded_on)
    books.refund(charged)
    key, model = books.get("key:a"), books.get("model:m")
    assert key is not None
    assert model is not None
    assert (key.used, key.day, key.day_used, key.month_used) == (1, 7, 1, 1)
    assert (model.used, model.day, model.day_used, model.month_used) == (0, 6, 0, 0)


def test_refund_after_midnight_does_not_add_to_the_new_day(
    books: Budgets, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.set("key:a", total=100, day_total=10)
    monkeypatch.setattr(budgets, "today", lambda: 5)
    yesterday = books.reserve(["key:a"], 10)
    assert yesterday is not None
    monkeypatch.setattr(budgets, "today", lambda: 6)
    assert books.reserve(["key:a"], 4)
    books.refund(yesterday)
    assert used(books, "key:a") == 4
    assert books.reserve(["key:a"], 7) is None
    assert books.reserve(["key:a"], 6)


def test_remaining_is_the_smallest_of_all_limits(books: Budgets) -> None:
    books.set("key:a", total=100, day_total=10)
    books.reserve(["key:a"], 3)
    budget = books.get("key:a")
    assert budget is not None
    assert budget.remaining(today()) == 7
    assert budget.remaining(today() + 1) == 10
    books.set("key:a", total=100, day_total=10, month_total=5)
    monthly = books.get("key:a")
    assert monthly is not None
    assert monthly.remaining(today()) == 2
    assert monthly.remaining(today() + 31) == 5
    books.set("key:a", total=None, day_total=None)
    unlimited = books.get("key:a")
    assert unlimited is not None
    assert unlimited.remaining(today()) is None
    assert unlimited.used == 3


def test_Q9_charges_in_any_order_and_restarts_stay_exact(tmp_path: Path, store: str | None) -> None:
    run_state_machine_as_test(
        lambda: BudgetMachine(tmp_path / "state", store),  # type: ignore[arg-type]  # it is only called
        settings=settings(deadline=None, max_examples=15, stateful_step_count=20),
    )
