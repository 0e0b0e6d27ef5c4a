"""Group commit: the writes of one event-loop turn are committed together or not at all."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from stingy_server import Budgets, Database
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.budget import Reservation
from stingy_server.store.group_commit import BatchedLookup, GroupCommit, StoreExecutor

pytestmark = pytest.mark.anyio


@pytest.fixture
def database(tmp_path: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(tmp_path / "state", store=store)) as database:
        Budgets(database).set("key:a", total=10, day_total=None)
        yield database


def used(database: Database) -> int:
    budget = Budgets(database).get("key:a")
    assert budget is not None
    return budget.used


async def test_writes_of_one_turn_share_a_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    execute = database.execute

    def recording(sql: str, values: object = ()) -> object:
        statements.append(sql)
        return execute(sql, values)

    monkeypatch.setattr(database, "execute", recording)
    budgets, writes = Budgets(database), GroupCommit(database)
    granted = await asyncio.gather(
        *(writes.run(lambda: budgets.reserve(["key:a"], 4)) for _ in range(3))
    )
    assert [reservation is not None for reservation in granted] == [True, True, False]
    assert (sum("BEGIN" in sql for sql in statements), statements.count("COMMIT")) == (1, 1)
    assert used(database) == 8


async def test_failed_write_fails_no_other_write_of_its_turn(database: Database) -> None:
    budgets, writes = Budgets(database), GroupCommit(database)

    def broken() -> None:
        raise StoreUnavailable("expected a disk")

    outcomes = await asyncio.gather(
        writes.run(lambda: budgets.reserve(["key:a"], 1)),
        writes.run(broken),
        writes.run(lambda: budgets.reserve(["key:a"], 2)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Reservation, StoreUnavailable, Reservation]
    assert used(database) == 3


async def test_exception_in_a_write_reaches_its_caller(database: Database) -> None:
    writes = GroupCommit(database)
    with pytest.raises(ZeroDivisionError):
        await writes.run(lambda: 1 // 0)
    assert await writes.run(lambda: 7) == 7


async def test_write_cancelled_while_queued_is_not_made(database: Database) -> None:
    budgets, writes = Budgets(database), GroupCommit(database)
    cancelled_write = asyncio.ensure_future(writes.run(lambda: budgets.reserve(["key:a"], 1)))
    await asyncio.sleep(0)  # the write is queued for the end of the turn
    cancelled_write.cancel()
    assert await writes.run(lambda: budgets.reserve(["key:a"], 2))
    assert used(database) == 2


async def test_cancelled_caller_first_receives_a_started_write(database: Database) -> None:
    budgets, writes = Budgets(database), GroupCommit(database)
    outcomes: list[object] = []

    async def limited() -> None:
        async with asyncio.timeout(None) as limit:
            # It cancels after the write has started, and before the task resumes.
            asyncio.get_running_loop().call_soon(limit.reschedule, 0)
            outcomes.append(await writes.run(lambda: budgets.reserve(["key:a"], 1)))
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await limited()
    assert len(outcomes) == used(database) == 1


async def test_caller_of_a_failed_write_is_cancelled_at_once(
    database: Database, store: str | None
) -> None:
    if store is None:
        pytest.skip("a file is written within one turn, in which no task can be cancelled")

    cancelled = threading.Event()

    def slow_and_broken() -> None:
        cancelled.wait(60)
        raise StoreUnavailable("expected a network")

    asyncio.get_running_loop().call_later(0.1, cancelled.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await GroupCommit(database).run(slow_and_broken)
    await asyncio.sleep(0)  # no error may come later


async def test_flush_waits_for_writes_that_follow_from_writes(database: Database) -> None:
    budgets, writes = Budgets(database), GroupCommit(database)

    async def twice() -> None:
        for _ in range(2):
            await writes.run(lambda: budgets.reserve(["key:a"], 1))

    twice_running = asyncio.ensure_future(twice())
    await writes.flush()
    assert used(database) == 2
    await twice_running


async def test_failed_commit_leaves_the_database_usable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = database.execute

    def full(sql: str, values: object = ()) -> object:
        if sql == "COMMIT":
            raise StoreUnavailable("expected room on the disk")
        return execute(sql, values)

    budgets, writes = Budgets(database), GroupCommit(database)
    with monkeypatch.context() as patch:
        patch.setattr(database, "execute", full)
        with pytest.raises(StoreUnavailable):
            await writes.run(lambda: budgets.reserve(["key:a"], 1))
    assert used(database) == 0
    assert await writes.run(lambda: budgets.reserve(["key:a"], 1))


async def test_servers_charging_in_opposite_orders_do_not_deadlock(
    database: Database, store: str | None
) -> None:
    budgets = Budgets(database)
    owners = [f"key:{number}" for number in range(8)]
    for owner in owners:
        budgets.set(owner, total=None, day_total=None)

    def turns(chosen: list[str]) -> None:
        async def several() -> None:
            with closing(database.reopen()) as own:
                writes, own_budgets = GroupCommit(own), Budgets(own)
                for _ in range(25):
                    await asyncio.gather(
                        *(
                            writes.run(partial(own_budgets.reserve, [o], 1), locks=[o])
                            for o in chosen
                        )
                    )
                writes.close()

        asyncio.run(several())

    await asyncio.gather(asyncio.to_thread(turns, owners), asyncio.to_thread(turns, owners[::-1]))
    assert [budget.used for owner in owners if (budget := budgets.get(owner))] == [50] * 8


async def run_behind_a_slow_call(
    executor: StoreExecutor, *calls: Callable[[], object]
) -> list[object]:
    """Queue calls behind a slow one; return the result or exception of each.

    With a file no call waits.
    """
    first = asyncio.ensure_future(executor.run(lambda: time.sleep(0.1)))
    await asyncio.sleep(0.01)
    outcomes = await asyncio.gather(*map(executor.run, calls), return_exceptions=True)
    await first
    executor.close()
    return list(outcomes)


async def test_failed_call_does_not_fail_other_calls(database: Database) -> None:
    budgets = Budgets(database)

    def write() -> bool:
        return budgets.reserve(["key:a"], 1) is not None

    outcomes = await run_behind_a_slow_call(StoreExecutor(database), write, lambda: 1 // 0, write)
    assert [type(outcome) for outcome in outcomes] == [bool, ZeroDivisionError, bool]
    assert used(database) == 2


async def test_calls_behind_an_unavailable_store_fail_untried(
    database: Database,
) -> None:
    budgets, tried = Budgets(database), []

    def unavailable() -> None:
        tried.append("unavailable")
        raise StoreUnavailable("expected a network", down=True)

    outcomes = await run_behind_a_slow_call(
        StoreExecutor(database),
        lambda: budgets.reserve(["key:a"], 1) is not None,
        unavailable,
        unavailable,
    )
    assert [type(outcome) for outcome in outcomes] == [bool, StoreUnavailable, StoreUnavailable]
    assert used(database) == 1
    assert len(tried) == (1 if database.remote else 2)


async def test_waiting_lookups_share_one_query(database: Database) -> None:
    queries, others_queued = [], threading.Event()

    def find_all(texts: Sequence[str]) -> list[str]:
        queries.append(tuple(texts))
        others_queued.wait(60)
        return [text.upper() for text in texts]

    lookup = BatchedLookup(database, str.upper, find_all)
    first = asyncio.ensure_future(lookup.lookup("a"))
    await asyncio.sleep(0.01)  # the first query runs
    asyncio.get_running_loop().call_later(0.02, others_queued.set)
    assert await asyncio.gather(*(lookup.lookup(text) for text in "bcd")) == ["B", "C", "D"]
    assert await first == "A"
    # With a file each look-up runs at once.
    assert queries == ([("a",), ("b", "c", "d")] if database.remote else [])
    lookup.close()
