"""The shares of limits that charges reach: each is found once in its period, by one charge."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stingy_server import Budgets, Database
from stingy_server.store import budgets
from stingy_server.store.budget import Budget, Crossing, Period
from stingy_server.store.budgets import parts_of_owner
from stingy_server.times import DAY_S, month_of, start_of_month

DAY, MONTH = 20_400, month_of(20_400)


@pytest.fixture
def database(tmp_path: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(tmp_path / "state", store=store)) as database:
        yield database


@pytest.fixture
def books(database: Database, monkeypatch: pytest.MonkeyPatch) -> Budgets:
    monkeypatch.setattr(budgets, "today", lambda: DAY)
    return Budgets(database)


def crossings(books: Budgets, images: int, *owners: str) -> list[tuple[Period, int]]:
    charged = books.reserve(owners or ("key:a",), images)
    assert charged is not None
    return [(each.period, each.percent) for each in charged.crossings]


def test_Q12_share_is_reported_by_the_charge_that_reaches_it(books: Budgets) -> None:
    books.set("key:a", total=100, day_total=None)
    found = [crossings(books, images) for images in (79, 1, 14, 1, 5)]
    assert found == [[], [(Period.TOTAL, 80)], [], [(Period.TOTAL, 95)], []]


def test_Q12_one_charge_may_reach_shares_of_several_limits(books: Budgets) -> None:
    books.set("key:a", total=10, day_total=100)
    books.set("model:m", total=None, day_total=None, month_total=10)
    charged = books.reserve(["key:a", "model:m"], 10)
    assert charged is not None
    assert sorted(charged.crossings) == [
        Crossing("key:a", Period.TOTAL, 80, 10, 10),
        Crossing("key:a", Period.TOTAL, 95, 10, 10),
        Crossing("model:m", Period.MONTH, 80, 10, 10),
        Crossing("model:m", Period.MONTH, 95, 10, 10),
    ]


def test_Q12_refund_and_restart_report_no_share_twice(
    books: Budgets, tmp_path: Path, store: str | None
) -> None:
    books.set("key:a", total=100, day_total=None)
    charged = books.reserve(["key:a"], 80)
    assert charged is not None
    assert len(charged.crossings) == 1
    books.refund(charged)
    with closing(Database(tmp_path / "state", store=store)) as other:
        again = Budgets(other)
        again.set("key:a", total=100, day_total=None)  # as each start does for a model
        assert crossings(again, 80) == []
        assert crossings(again, 15) == [(Period.TOTAL, 95)]


def test_Q12_new_day_or_month_reports_its_shares_anew(
    books: Budgets, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.set("key:a", total=None, day_total=10, month_total=20)
    assert crossings(books, 8) == [(Period.DAY, 80)]
    monkeypatch.setattr(budgets, "today", lambda: DAY + 1)
    assert crossings(books, 8) == [(Period.DAY, 80), (Period.MONTH, 80)]
    monkeypatch.setattr(budgets, "today", lambda: DAY)  # the clock is set back
    assert crossings(books, 2) == [(Period.DAY, 95)]
    monkeypatch.setattr(budgets, "today", lambda: DAY + 31)
    assert crossings(books, 10) == [(Period.DAY, 80), (Period.DAY, 95)]


def test_Q12_changed_limit_reports_its_shares_anew(books: Budgets) -> None:
    books.set("key:a", total=10, day_total=None)
    assert crossings(books, 9) == [(Period.TOTAL, 80)]
    books.set("key:a", total=100, day_total=None)
    assert crossings(books, 1) == []
    assert crossings(books, 70) == [(Period.TOTAL, 80)]
    books.set("key:a", total=82, day_total=None)
    assert crossings(books, 1) == [(Period.TOTAL, 80), (Period.TOTAL, 95)]


def test_lowered_limit_grants_nothing_beyond_it(books: Budgets) -> None:
    books.set("key:a", total=1000, day_total=None)
    assert crossings(books, 10) == []
    books.set("key:a", total=12, day_total=None)
    assert books.reserve(["key:a"], 3) is None
    assert books.reserve(["key:a"], 2)
    assert books.reserve(["key:a"], 1) is None


def test_Q12_processes_charging_at_once_report_each_share_once(
    books: Budgets, tmp_path: Path, store: str | None
) -> None:
    books.set("key:a", total=400, day_total=200)

    def spend(_: int) -> list[tuple[Period, int]]:
        with closing(Database(tmp_path / "state", store=store, lock_timeout_s=60)) as own:
            own_books = Budgets(own)
            found: list[Crossing] = []
            for _ in range(100):
                with own.transaction():
                    charged = own_books.reserve(["key:a"], 1)
                found += [] if charged is None else charged.crossings
            return [(each.period, each.percent) for each in found]

    with ThreadPoolExecutor(4) as threads:
        reported = [share for found in threads.map(spend, range(4)) for share in found]
    assert sorted(reported) == [(Period.DAY, 80), (Period.DAY, 95)]
    budget = books.get("key:a")
    assert budget is not None
    assert budget.used == 200


@pytest.mark.parametrize(
    ("owner", "parts"),
    [
        ("key:1a2b", ("key", "1a2b", None)),
        ("model:cats-2.1", ("model", None, "cats-2.1")),
        ("key:1a2b:cats", ("key_model", "1a2b", "cats")),
        ("others:x", ("others", None, None)),
    ],
)
def test_owner_is_split_into_kind_key_and_model(
    owner: str, parts: tuple[str, str | None, str | None]
) -> None:
    assert parts_of_owner(owner) == parts


NOW = DAY * DAY_S + 3600.0
NEXT_DAY, NEXT_MONTH = DAY_S - 3600, start_of_month(MONTH + 1) - NOW


@pytest.mark.parametrize(
    ("budget", "wait"),
    [
        (Budget(10, 6, None, DAY, 6), None),
        (Budget(None, 6, 4, DAY, 0), None),
        (Budget(None, 6, None, DAY, 6, 4, MONTH, 0), None),
        (Budget(None, 6, 10, DAY, 6), NEXT_DAY),
        (Budget(None, 6, 10, DAY + 1, 6), NEXT_DAY + DAY_S),
        (Budget(None, 6, None, DAY, 6, 10, MONTH, 6), NEXT_MONTH),
        (Budget(None, 6, 10, DAY, 6, 10, MONTH, 6), NEXT_MONTH),
        (Budget(None, 6, 10, DAY - 1, 6, 10, MONTH - 1, 6), 1),
        (Budget(None, 6, None, DAY, 6), 1),
    ],
    ids=[
        "total spent",
        "more than a day",
        "more than a month",
        "day spent",
        "clock set back",
        "month spent",
        "day and month spent",
        "both are over",
        "no limit",
    ],
)
def test_Q6_spent_budget_says_when_five_images_fit(budget: Budget, wait: float | None) -> None:
    assert budget.wait_s(5, NOW) == wait


@given(day=st.integers(0, 60_000))
def test_start_of_a_month_is_where_its_first_day_is(day: int) -> None:
    start = start_of_month(month_of(day)) / DAY_S
    assert start <= day < start_of_month(month_of(day) + 1) / DAY_S
    assert month_of(int(start)) == month_of(day)
