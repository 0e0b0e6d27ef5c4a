"""Charges, refunds and restarts in any order, run shortly by tests and long by benchmarks/fuzz."""

import itertools
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stingy_server import Budgets, Database
from stingy_server.store.budgets import Reservation


class BudgetMachine(RuleBasedStateMachine):
    """Q9: whatever the order of charges, refunds and restarts, nothing is lost or granted twice."""

    owners = itertools.count()

    def __init__(self, state: Path, store: str | None) -> None:
        super().__init__()
        self._opened = (state, store)
        self.owner = f"key:{next(self.owners)}"
        self.open: list[Reservation] = []

    @initialize(total=st.integers(1, 20), day_total=st.one_of(st.none(), st.integers(1, 20)))
    def begin(self, total: int, day_total: int | None) -> None:
        self._open_database()
        self.limit = min(total, total if day_total is None else day_total)
        self.books.set(self.owner, total=total, day_total=day_total)
        self.used = 0

    def _open_database(self) -> None:
        state, store = self._opened
        self.database = Database(state, store=store)
        self.books = Budgets(self.database)

    def teardown(self) -> None:
        self.database.close()

    @rule(images=st.integers(1, 8))
    def reserve(self, images: int) -> None:
        reservation = self.books.reserve([self.owner], images)
        assert (reservation is not None) == (self.used + images <= self.limit)
        if reservation is not None:
            self.open.append(reservation)
            self.used += images

    @rule()
    def refund(self) -> None:
        if self.open:
            reservation = self.open.pop()
            self.books.refund(reservation)
            self.used -= reservation.images

    @rule()
    def crash_and_restart(self) -> None:
        self.database.close()
        self._open_database()

    @invariant()
    def books_agree(self) -> None:
        budget = self.books.get(self.owner)
        assert budget is not None
        assert budget.used == self.used <= self.limit
