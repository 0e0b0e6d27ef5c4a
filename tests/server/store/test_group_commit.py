"""Group commit: one transaction a turn, which holds for all in it or for none."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from stingy_server import Budgets, Database
from stingy_server.store.base import StoreUnavailable
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


async def test_the_writes_of_one_turn_are_one_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    execute = database.execute

    def noted(sql: str, values: object = ()) -> object:
        said.append(sql)
        return execute(sql, values)

    monkeypatch.setattr(database, "execute", noted)
    books, writes = Budgets(database), GroupCommit(database)
    granted = await asyncio.gather(
        *(writes.run(lambda: books.reserve(["key:a"], 4)) for _ in range(3))
    )
    assert [reservation is not None for reservation in granted] == [True, True, False]
    assert (sum("BEGIN" in sql for sql in said), said.count("COMMIT")) == (1, 1)
    assert used(database) == 8


async def test_a_write_that_fails_fails_its_whole_turn_and_no_other(database: Database) -> None:
    books, writes = Budgets(database), GroupCommit(database)

    def broken() -> None:
        raise StoreUnavailable("expected a disk")

    outcomes = await asyncio.gather(
        writes.run(lambda: books.reserve(["key:a"], 1)), writes.run(broken), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]
    assert used(database) == 0
    assert await writes.run(lambda: books.reserve(["key:a"], 1))
    assert used(database) == 1


async def test_a_fault_of_the_program_leaves_nobody_waiting(database: Database) -> None:
    writes = GroupCommit(database)
    with pytest.raises(ZeroDivisionError):
        await writes.run(lambda: 1 // 0)
    assert await writes.run(lambda: 7) == 7


async def test_caller_cancelled_before_the_commit_writes_nothing(database: Database) -> None:
    books, writes = Budgets(database), GroupCommit(database)
    gone = asyncio.ensure_future(writes.run(lambda: books.reserve(["key:a"], 1)))
    await asyncio.sleep(0)  # it waits for the turn's end
    gone.cancel()
    assert await writes.run(lambda: books.reserve(["key:a"], 2))
    assert used(database) == 2


async def test_caller_cancelled_during_its_write_gets_the_result_first(database: Database) -> None:
    books, writes = Budgets(database), GroupCommit(database)
    outcomes: list[object] = []

    async def limited() -> None:
        async with asyncio.timeout(None) as limit:
            # It cancels once the write has been begun, and before its task has been woken.
            asyncio.get_running_loop().call_soon(limit.reschedule, 0)
            outcomes.append(await writes.run(lambda: books.reserve(["key:a"], 1)))
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await limited()
    assert len(outcomes) == used(database) == 1


async def test_caller_cancelled_during_a_failing_write_is_cancelled(
    database: Database, store: str | None
) -> None:
    if store is None:
        pytest.skip("a file is written within a turn, in which nobody is cancelled")

    def slow_and_broken() -> None:
        time.sleep(0.2)
        raise StoreUnavailable("expected a network")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await GroupCommit(database).run(slow_and_broken)
    await asyncio.sleep(0)  # and nothing of it comes later


async def test_flush_waits_for_writes_that_follow_writes(database: Database) -> None:
    books, writes = Budgets(database), GroupCommit(database)

    async def twice() -> None:
        for _ in range(2):
            await writes.run(lambda: books.reserve(["key:a"], 1))

    twice_running = asyncio.ensure_future(twice())
    await writes.flush()
    assert used(database) == 2
    await twice_running


async def test_a_failed_commit_leaves_the_database_usable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = database.execute

    def full(sql: str, values: object = ()) -> object:
        if sql == "COMMIT":
            raise StoreUnavailable("expected room on the disk")
        return execute(sql, values)

    books, writes = Budgets(database), GroupCommit(database)
    with monkeypatch.context() as patch:
        patch.setattr(database, "execute", full)
        with pytest.raises(StoreUnavailable):
            await writes.run(lambda: books.reserve(["key:a"], 1))
    assert used(database) == 0
    assert await writes.run(lambda: books.reserve(["key:a"], 1))


async def test_crossing_turns_of_several_servers_do_not_deadlock(
    database: Database, store: str | None
) -> None:
    books = Budgets(database)
    owners = [f"key:{number}" for number in range(8)]
    for owner in owners:
        books.set(owner, total=None, day_total=None)

    def turns(chosen: list[str]) -> None:
        async def several() -> None:
            with closing(database.reopen()) as own:
                writes, budgets = GroupCommit(own), Budgets(own)
                for _ in range(25):
                    await asyncio.gather(
                        *(writes.run(partial(budgets.reserve, [o], 1), locks=[o]) for o in chosen)
                    )
                writes.close()

        asyncio.run(several())

    await asyncio.gather(asyncio.to_thread(turns, owners), asyncio.to_thread(turns, owners[::-1]))
    assert [budget.used for owner in owners if (budget := books.get(owner))] == [50] * 8


async def run_behind_a_slow_call(
    executor: StoreExecutor, *calls: Callable[[], object]
) -> list[object]:
    """What each is told, of calls that wait together; a file lets nobody wait."""
    first = asyncio.ensure_future(executor.run(lambda: time.sleep(0.1)))
    await asyncio.sleep(0.01)
    outcomes = await asyncio.gather(*map(executor.run, calls), return_exceptions=True)
    await first
    executor.close()
    return list(outcomes)


async def test_failing_call_of_the_executor_fails_no_other(database: Database) -> None:
    books = Budgets(database)

    def wrote() -> bool:
        return books.reserve(["key:a"], 1) is not None

    outcomes = await run_behind_a_slow_call(StoreExecutor(database), wrote, lambda: 1 // 0, wrote)
    assert [type(outcome) for outcome in outcomes] == [bool, ZeroDivisionError, bool]
    assert used(database) == 2


async def test_calls_behind_a_lost_store_fail_without_a_try(
    database: Database,
) -> None:
    books, tried = Budgets(database), []

    def gone() -> None:
        tried.append("gone")
        raise StoreUnavailable("expected a network")

    outcomes = await run_behind_a_slow_call(
        StoreExecutor(database), lambda: books.reserve(["key:a"], 1) is not None, gone, gone
    )
    assert [type(outcome) for outcome in outcomes] == [bool, StoreUnavailable, StoreUnavailable]
    assert used(database) == 1
    assert len(tried) == (1 if database.remote else 2)


async def test_waiting_look_ups_share_one_query(database: Database) -> None:
    questions = []

    def answers(texts: Sequence[str]) -> list[str]:
        questions.append(tuple(texts))
        time.sleep(0.05)
        return [text.upper() for text in texts]

    lookup = BatchedLookup(database, str.upper, answers)
    first = asyncio.ensure_future(lookup.lookup("a"))
    await asyncio.sleep(0.01)  # it is being asked for
    assert await asyncio.gather(*(lookup.lookup(text) for text in "bcd")) == ["B", "C", "D"]
    assert await first == "A"
    # A file answers at once: nobody waits.
    assert questions == ([("a",), ("b", "c", "d")] if database.remote else [])
    lookup.close()
