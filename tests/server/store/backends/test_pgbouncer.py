"""PostgreSQL behind a pool in transaction mode, which gives each transaction another session."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from checks import granted_to_processes
from serving import make_bundle, make_settings, png, random_images, running, spend
from stingy_server import Budgets, Database, Keys
from stingy_server.store.base import StoreBusy
from stingy_server.store.ledger import Ledger

psycopg = pytest.importorskip("psycopg")

IMAGE = png(random_images(1)[0])


@pytest.mark.anyio
async def test_D6_requests_through_a_pool_are_answered_and_charged(
    tmp_path: Path, pooled_address: str
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), store=pooled_address)
    async with running(settings, budget=60) as (client, app):
        statuses = []
        for _ in range(10):
            posts = (client.post("/v1/predict/digits", content=IMAGE) for _ in range(8))
            statuses += [response.status_code for response in await asyncio.gather(*posts)]
        assert (statuses.count(200), statuses.count(429)) == (60, 20)
        assert (await client.get("/v1/usage")).json()["used"] == 60
        entries = [entry for _, entry in Ledger(app.state.service.database).entries()]
    assert sum(entry.answered for entry in entries) == 60


def test_D6_processes_spend_exactly_one_budget_through_a_pool(
    tmp_path: Path, pooled_address: str
) -> None:
    with closing(Database(tmp_path / "state", store=pooled_address)) as database:
        key, _ = Keys(database).create("shared", budget=500)
        spending = partial(spend, store=pooled_address)
        total = granted_to_processes(spending, tmp_path / "state", key.id, tries=200, processes=4)
    assert total == 500


def test_D6_limits_of_a_transaction_do_not_outlive_it(
    tmp_path: Path, pooled_address: str, address: str
) -> None:
    """Check that the lock timeout applies, and that another client of the pool keeps its own."""
    with (
        closing(Database(tmp_path / "state", store=pooled_address, lock_timeout_s=0.3)) as database,
        ThreadPoolExecutor(8) as threads,
    ):
        budgets = Budgets(database)
        budgets.set("key:a", total=100, day_total=None)
        with psycopg.connect(address) as other:
            other.execute("UPDATE budgets SET used = used")
            started = time.monotonic()
            with pytest.raises(StoreBusy), database.transaction(locks=("key:a",)):
                budgets.reserve(["key:a"], 1)
            with pytest.raises(StoreBusy):
                budgets.reserve(["key:a"], 1)
            assert time.monotonic() - started < 3
        reserve: Callable[[int], object] = lambda _: budgets.reserve(["key:a"], 1)  # noqa: E731
        assert all(threads.map(reserve, range(100)))
        with psycopg.connect(pooled_address, autocommit=True, prepare_threshold=None) as client:
            for name, default in (("lock_timeout", "0"), ("statement_timeout", "0")):
                for _ in range(10):
                    found = client.execute(f"SHOW {name}".encode()).fetchone()
                    assert found == (default,)
