"""A PostgreSQL that hangs or holds a lock: every call ends by a deadline, and all stays exact."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from serving import make_bundle, make_key, make_settings, png, random_images, running
from stingy_server import Budgets, Database
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.budgets import key_owner
from stingy_server.store.group_commit import GroupCommit, StoreExecutor
from stingy_server.store.ledger import Ledger

if TYPE_CHECKING:
    from postgres import Running

psycopg = pytest.importorskip("psycopg")

pytestmark = pytest.mark.anyio
PATH = "/v1/predict/digits"
IMAGE = png(random_images(1)[0])
DEADLINE_S = 3.0  # as docs/serve.md says: a lock timeout of 2 s, and 1 s more
MARGIN_S = 2.0  # for a busy machine


def configured(folder: Path, address: str, **options: Any) -> Any:
    return make_settings(folder / "s", make_bundle(folder / "b"), store=address, **options)


@pytest.fixture
def database(tmp_path: Path, address: str) -> Iterator[Database]:
    with closing(Database(tmp_path / "state", store=address)) as database:
        yield database


async def until(reached: Any) -> None:
    async with asyncio.timeout(30):
        while not await reached():
            await asyncio.sleep(0.1)


async def test_D1_hung_store_refuses_each_request_in_time(
    tmp_path: Path, address: str, postgres_server: "Running", caplog: pytest.LogCaptureFixture
) -> None:
    async with running(configured(tmp_path, address)) as (client, app):
        assert (await client.post(PATH, content=IMAGE)).status_code == 200
        threads = threading.active_count()
        loop = asyncio.get_running_loop()

        async def refused() -> float:
            started = loop.time()
            response = await client.post(PATH, content=IMAGE)
            assert response.status_code == 503
            assert response.headers["X-Error-Code"] == "store_unavailable"
            assert "retry-after" in response.headers
            return loop.time() - started

        with postgres_server.frozen():
            waiting = [asyncio.create_task(refused()) for _ in range(100)]
            for _ in range(20):  # meanwhile the event loop serves what needs no store
                started = loop.time()
                assert (await client.get("/v2/health/live")).status_code == 200
                assert loop.time() - started < 1
                await asyncio.sleep(0.05)
            seconds = await asyncio.gather(*waiting)
            assert max(seconds) < DEADLINE_S + MARGIN_S
            # From now on nobody waits, and the server is not ready.
            assert await refused() < 1
            assert (await client.get("/v2/health/ready")).status_code == 503
            assert threading.active_count() <= threads + 5
            assert caplog.text.count("the store does not answer: ") == 1

        async def answered() -> bool:
            return (await client.post(PATH, content=IMAGE)).status_code == 200

        await until(answered)
        assert (await client.get("/v2/health/ready")).status_code == 200
        ((_, budget),) = app.state.service.keys.all()
        entries = [entry for _, entry in Ledger(app.state.service.database).entries()]
        assert caplog.text.count("the store answers: ") == 1
        assert budget.used >= sum(entry.answered for entry in entries) >= 2


async def test_D4_idle_server_is_not_ready_while_its_store_hangs(
    tmp_path: Path, address: str, postgres_server: "Running"
) -> None:
    async with running(configured(tmp_path, address)) as (client, _):

        async def is_ready() -> bool:
            return (await client.get("/v2/health/ready")).status_code == 200

        async def is_not_ready() -> bool:
            return not await is_ready()

        assert await is_ready()
        with postgres_server.frozen():
            await until(is_not_ready)
        await until(is_ready)


async def test_D2_locked_row_of_one_key_refuses_no_other_key(tmp_path: Path, address: str) -> None:
    async with running(configured(tmp_path, address)) as (client, app):
        service = app.state.service
        locked_key = make_key(tmp_path / "s", store=address)
        locked = locked_key.split("_")[1]
        free = httpx.Headers(client.headers)
        loop = asyncio.get_running_loop()

        async def post(headers: Any) -> tuple[int, float]:
            started = loop.time()
            response = await client.post(PATH, content=IMAGE, headers=headers)
            return response.status_code, loop.time() - started

        with psycopg.connect(address) as other:
            other.execute("UPDATE budgets SET used = used WHERE owner = %s", (key_owner(locked),))
            blocked = [
                asyncio.create_task(post({"Authorization": f"Bearer {locked_key}"}))
                for _ in range(5)
            ]
            others = []
            for _ in range(10):
                others += await asyncio.gather(*(post(free) for _ in range(3)))
            statuses = [await each for each in blocked]
        assert {status for status, _ in others} == {200}
        assert max(seconds for _, seconds in others) < 2.0
        assert {status for status, _ in statuses} == {503}
        assert all(seconds < DEADLINE_S + MARGIN_S for _, seconds in statuses)
        assert (await post({"Authorization": f"Bearer {locked_key}"}))[0] == 200
        used = {key.id: budget.used for key, budget in service.keys.all()}
        assert used.pop(locked) == 1
        assert [*used.values()] == [30]


async def test_D2_failed_write_of_a_batch_is_the_only_one_to_fail(database: Database) -> None:
    budgets, writes = Budgets(database), GroupCommit(database)
    budgets.set("key:a", total=10, day_total=None)

    def violate() -> None:
        database.execute("UPDATE budgets SET used = -1 WHERE owner = 'key:a'")

    outcomes = await asyncio.gather(
        writes.run(lambda: budgets.reserve(["key:a"], 1), locks=["key:a"]),
        writes.run(violate),
        writes.run(lambda: budgets.reserve(["key:a"], 2), locks=["key:a"]),
        return_exceptions=True,
    )
    assert [isinstance(each, StoreUnavailable) for each in outcomes] == [False, True, False]
    budget = budgets.get("key:a")
    assert budget is not None
    assert budget.used == 3
    assert database.health.ok
    writes.close()


async def test_D3_charge_whose_commit_is_not_answered_counts_once(
    database: Database, postgres_server: "Running"
) -> None:
    budgets, writes = Budgets(database), GroupCommit(database)
    for owner in ("key:a", "key:b"):
        budgets.set(owner, total=10, day_total=None)

    def charge_and_freeze() -> None:
        budgets.reserve(["key:a"], 4)
        postgres_server.freeze()

    started = time.monotonic()
    try:
        outcomes = await asyncio.gather(
            writes.run(lambda: budgets.reserve(["key:b"], 2), locks=["key:b"]),
            writes.run(charge_and_freeze, locks=["key:a"]),
            return_exceptions=True,
        )
    finally:
        postgres_server.resume()
    assert time.monotonic() - started < DEADLINE_S + MARGIN_S
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)

    async def committed() -> bool:
        found = [budgets.get(owner) for owner in ("key:a", "key:b")]
        return [budget.used for budget in found if budget] == [4, 2]

    await until(committed)
    await asyncio.sleep(0.5)
    assert await committed()  # not made a second time
    writes.close()


async def test_D3_no_answer_leaves_if_its_entry_is_not_answered(
    tmp_path: Path, address: str, postgres_server: "Running", monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(configured(tmp_path, address)) as (client, app):
        ledger = app.state.service.ledger
        append_all = ledger.append_all

        def append_and_freeze(entries: Any) -> list[None]:
            append_all(entries)
            postgres_server.freeze()
            return [None] * len(entries)

        monkeypatch.setattr(ledger, "append_all", append_and_freeze)
        try:
            response = await client.post(PATH, content=IMAGE)
        finally:
            postgres_server.resume()
        assert response.status_code == 503
        monkeypatch.setattr(ledger, "append_all", append_all)

        async def answered() -> bool:
            return (await client.post(PATH, content=IMAGE)).status_code == 200

        await until(answered)
        ((_, budget),) = app.state.service.keys.all()
        assert budget.used >= 2  # the unanswered one stays charged


async def test_D1_read_of_a_hung_store_ends_in_time(
    database: Database, postgres_server: "Running"
) -> None:
    executor = StoreExecutor(database)

    def read() -> Any:
        return database.execute("SELECT 1").fetchone()

    assert await executor.run(read) == (1,)
    with postgres_server.frozen():
        started = time.monotonic()
        outcomes = await asyncio.gather(
            *(executor.run(read) for _ in range(50)), return_exceptions=True
        )
        assert time.monotonic() - started < DEADLINE_S + MARGIN_S
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            read()  # without a queue, as the commands do
        assert time.monotonic() - started < DEADLINE_S + MARGIN_S

    async def answers() -> bool:
        return database.health.ok

    await until(answers)
    assert await executor.run(read) == (1,)
    executor.close()
