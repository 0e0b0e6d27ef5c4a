"""The table of connections: which is dropped when there are too many, and deadlines."""

import asyncio
from collections import Counter

import pytest

from stingy_server.process.connection_table import NEVER, ConnectionTable, Rank

pytestmark = pytest.mark.anyio


class FakeConnection:
    """A connection that records what the table does to it."""

    def __init__(self, table: ConnectionTable) -> None:
        self.rank = Rank.HEADLESS
        self.owner: str | None = None
        self.input_deadline = self.output_deadline = NEVER
        self.dropped = self.expired = False
        self._table = table

    def drop(self) -> None:
        self.dropped = True

    def expire(self) -> None:
        self.expired = True
        self._table.remove(self)


class Drops:
    """A counter of drops by reason."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def count_drop(self, reason: str) -> None:
        self.counted[reason] += 1


def make_table(*, most: int) -> tuple[ConnectionTable, Counter[str]]:
    drops = Drops()
    return ConnectionTable(most=most, tick_s=0.01, counter=drops), drops.counted


def added(table: ConnectionTable, rank: Rank, owner: str = "alice") -> FakeConnection:
    connection = FakeConnection(table)
    assert table.add(connection)
    table.move(connection, rank, owner)
    return connection


async def test_C3_strangers_then_customers_are_dropped_oldest_first() -> None:
    table, counted = make_table(most=8)
    by_rank = [
        connection
        for rank in (Rank.BUSY, Rank.CUSTOMER, Rank.HEADLESS, Rank.STRANGER)
        for connection in [added(table, rank), added(table, rank)]
    ]
    expected = [by_rank[index] for index in (4, 5, 6, 7, 2, 3)]
    for number, victim in enumerate(expected):
        assert not victim.dropped
        added(table, Rank.BUSY)
        assert [connection.dropped for connection in expected] == [
            index <= number for index in range(6)
        ]
    assert not table.add(FakeConnection(table))
    assert len(table) == 8
    assert counted == {"headless": 2, "stranger": 2, "customer": 2, "busy": 1}


async def test_C3_connection_that_was_active_last_is_the_youngest() -> None:
    table, _ = make_table(most=2)
    first, second = added(table, Rank.CUSTOMER), added(table, Rank.CUSTOMER)
    table.move(first, Rank.BUSY)
    table.move(first, Rank.CUSTOMER)
    added(table, Rank.BUSY)
    assert (first.dropped, second.dropped) == (False, True)


async def test_C3_newcomer_outlasts_strangers_that_were_refused_before() -> None:
    table, counted = make_table(most=8)
    refused = [added(table, Rank.STRANGER) for _ in range(7)]
    newcomer = added(table, Rank.HEADLESS)
    for _ in refused:
        added(table, Rank.HEADLESS)
    assert (newcomer.dropped, counted) == (False, {"stranger": 7})


async def test_S1_key_keeps_at_most_half_of_the_connections() -> None:
    table, _ = make_table(most=12)
    crowd = [added(table, Rank.CUSTOMER) for _ in range(10)]
    assert [each.rank for each in crowd] == [Rank.CUSTOMER] * 6 + [Rank.STRANGER] * 4
    other = added(table, Rank.CUSTOMER, owner="bob")
    for _ in range(5):
        added(table, Rank.BUSY)
    assert [each.dropped for each in crowd] == [False] * 6 + [True] * 4
    assert (other.rank, other.dropped) == (Rank.CUSTOMER, False)
    table.remove(crowd[0])  # its share is free
    assert added(table, Rank.CUSTOMER, owner="bob").rank is Rank.CUSTOMER


async def test_C3_connection_that_was_dropped_is_removed_once() -> None:
    table, _ = make_table(most=1)
    first, second = added(table, Rank.HEADLESS), added(table, Rank.HEADLESS)
    table.move(first, Rank.BUSY)
    table.remove(first)
    assert (first.dropped, len(table)) == (True, 1)
    table.remove(second)
    assert len(table) == 0


async def test_H3_each_deadline_expires_a_connection() -> None:
    table, _ = make_table(most=8)
    late = [added(table, rank) for rank in (Rank.HEADLESS, Rank.BUSY)]
    kept = added(table, Rank.BUSY)
    now = asyncio.get_running_loop().time()
    late[0].input_deadline = late[1].output_deadline = now
    kept.input_deadline = now + 3600
    async with asyncio.timeout(30):
        while not all(connection.expired for connection in late):
            await asyncio.sleep(0.01)
    assert not kept.expired
