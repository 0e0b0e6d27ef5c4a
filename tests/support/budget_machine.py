"""Charges, refunds, clocks and restarts in any order, run shortly by tests and long by fuzzing."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stingy_server import Budgets, Database
from stingy_server.store import budgets
from stingy_server.store.budget import Budget, Crossing, Period, Reservation
from stingy_server.store.budgets import REPORTED
from stingy_server.times import month_of

FIRST_DAY = 20_400  # a few days before the end of a month
limits = st.one_of(st.none(), st.integers(1, 20))


@dataclass
class Owner:
    """The charges that one owner should have: for each its images, day and month.

    Attributes:
        reported: the shares that were reported, by period, number of the period and percent.
    """

    name: str
    total: int | None
    day_total: int | None
    month_total: int | None
    day: int = 0
    month: int = 0
    charges: list[tuple[int, int, int]] = field(default_factory=list)
    reported: set[tuple[Period, int, int]] = field(default_factory=set)

    def sum(self, which: Callable[[int, int], bool]) -> int:
        return sum(images for images, day, month in self.charges if which(day, month))

    def counted(self, day: int, month: int) -> list[tuple[Period, int, int | None, int]]:
        """List the limits: the period, its number, the limit and the images charged in it."""
        return [
            (Period.TOTAL, 0, self.total, self.sum(lambda *_: True)),
            (Period.DAY, day, self.day_total, self.sum(lambda d, _: d == day)),
            (Period.MONTH, month, self.month_total, self.sum(lambda _, m: m == month)),
        ]

    def covers(self, images: int, today: int) -> bool:
        day, month = max(self.day, today), max(self.month, month_of(today))
        counted = self.counted(day, month)
        return all(limit is None or used + images <= limit for _, _, limit, used in counted)

    def charge(self, images: int, today: int) -> Iterator[Crossing]:
        """Count a charge, and yield the shares of limits that it reaches first."""
        self.day, self.month = max(self.day, today), max(self.month, month_of(today))
        self.charges.append((images, self.day, self.month))
        for period, number, limit, used in self.counted(self.day, self.month):
            for percent in REPORTED:
                share = (period, number, percent)
                if limit is not None and 100 * used >= percent * limit:
                    if share not in self.reported:
                        yield Crossing(self.name, period, percent, limit, used)
                    self.reported.add(share)

    def limit_to(self, period: Period, limit: int | None) -> None:
        name = {Period.TOTAL: "total", Period.DAY: "day_total", Period.MONTH: "month_total"}[period]
        if getattr(self, name) != limit:
            self.reported = {share for share in self.reported if share[0] != period}
            setattr(self, name, limit)


class BudgetMachine(RuleBasedStateMachine):
    """Q9, Q12: whatever the order of charges, refunds and restarts, nothing is lost or doubled."""

    names = itertools.count()

    def __init__(self, state: Path, store: str | None) -> None:
        super().__init__()
        self._opened = (state, store)
        self.day = FIRST_DAY
        self._clock = mock.patch.object(budgets, "today", self._today)
        self._clock.start()
        self.open: list[tuple[Reservation, list[tuple[Owner, tuple[int, int, int]]]]] = []

    @initialize(limits=st.lists(st.tuples(limits, limits, limits), min_size=3, max_size=3))
    def begin(self, limits: list[tuple[int | None, int | None, int | None]]) -> None:
        self._open_database()
        number = next(self.names)
        self.owners = [
            Owner(f"{kind}:{number}", *each)
            for kind, each in zip(("key", "model", "both"), limits, strict=True)
        ]
        for owner in self.owners:
            self._write_limits(owner)

    def _write_limits(self, owner: Owner) -> None:
        self.books.set(
            owner.name,
            total=owner.total,
            day_total=owner.day_total,
            month_total=owner.month_total,
        )

    def _open_database(self) -> None:
        state, store = self._opened
        self.database = Database(state, store=store)
        self.books = Budgets(self.database)

    def _today(self) -> int:
        return self.day

    def teardown(self) -> None:
        self._clock.stop()
        self.database.close()

    @rule(images=st.integers(1, 8), charged=st.sets(st.integers(0, 2), min_size=1))
    def reserve(self, images: int, charged: set[int]) -> None:
        owners = [self.owners[number] for number in sorted(charged)]
        reservation = self.books.reserve([owner.name for owner in owners], images)
        assert (reservation is not None) == all(owner.covers(images, self.day) for owner in owners)
        if reservation is not None:
            reached = [each for owner in owners for each in owner.charge(images, self.day)]
            assert sorted(reservation.crossings) == sorted(reached)
            self.open.append((reservation, [(owner, owner.charges[-1]) for owner in owners]))

    @rule(last=st.booleans())
    def refund(self, last: bool) -> None:
        if self.open:
            reservation, charges = self.open.pop(-1 if last else 0)
            self.books.refund(reservation)
            for owner, charge in charges:
                owner.charges.remove(charge)

    @rule(
        number=st.integers(0, 2),
        period=st.sampled_from(Period),
        more=st.one_of(st.none(), st.integers(1, 20)),
    )
    def set_limit(self, number: int, period: Period, more: int | None) -> None:
        """Set a limit to one that covers what is used, or remove it."""
        owner = self.owners[number]
        owner.limit_to(period, None if more is None else owner.sum(lambda *_: True) + more)
        self._write_limits(owner)

    @rule(days=st.one_of(st.integers(-3, 3), st.integers(-40, 40)))
    def set_clock(self, days: int) -> None:
        self.day += days

    @rule()
    def crash_and_restart(self) -> None:
        self.database.close()
        self._open_database()

    @invariant()
    def books_agree(self) -> None:
        for owner in self.owners:
            budget = self.books.get(owner.name)
            assert budget == Budget(
                owner.total,
                owner.sum(lambda *_: True),
                owner.day_total,
                owner.day,
                owner.sum(lambda day, _: day == owner.day),  # noqa: B023
                owner.month_total,
                owner.month,
                owner.sum(lambda _, month: month == owner.month),  # noqa: B023
            )
            for limit, used in (
                (budget.total, budget.used),
                (budget.day_total, budget.day_used),
                (budget.month_total, budget.month_used),
            ):
                assert used >= 0
                assert limit is None or used <= limit
