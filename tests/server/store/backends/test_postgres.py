"""PostgreSQL: several hosts share it, it never blocks the event loop, and an outage is a 503."""

import asyncio
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from serving import make_bundle, make_key, make_settings, png, random_images, running, served
from stingy_server import Budgets, ConfigurationError, Database, Keys, StoreUnavailable, create_app
from stingy_server.models.summary import summary
from stingy_server.store.ledger import Ledger

if TYPE_CHECKING:
    from postgres import Running

psycopg = pytest.importorskip("psycopg")

PATH = "/v1/predict/digits"
IMAGE = png(random_images(1)[0])


def configured(folder: Path, address: str, **options: Any) -> Any:
    bundle = make_bundle(folder / "b")
    return make_settings(folder / "s", bundle, store=address, **options)


async def wait_for_status(client: httpx.AsyncClient, status: int) -> httpx.Response:
    """Return the first response of this status. Raises TimeoutError after 30 seconds."""
    async with asyncio.timeout(30):
        while True:
            response = await client.post(PATH, content=IMAGE)
            if response.status_code == status:
                return response
            assert response.headers["X-Error-Code"] == "store_unavailable"
            await asyncio.sleep(0.1)


@pytest.mark.anyio
async def test_request_is_answered_charged_and_recorded(tmp_path: Path, address: str) -> None:
    async with running(configured(tmp_path, address), budget=2) as (client, app):
        responses = [await client.post(PATH, content=IMAGE) for _ in range(3)]
        assert [response.status_code for response in responses] == [200, 200, 429]
        assert (await client.get("/v1/usage")).json()["used"] == 2
        events = [entry.event for _, entry in Ledger(app.state.service.database).entries()]
    used_up = ["budget_80", "budget_95"]
    assert events == ["start", "answer", *used_up, "answer", "budget_exhausted"]
    assert not (tmp_path / "s" / "stingy.sqlite3").exists()


@pytest.mark.anyio
async def test_concurrent_requests_past_the_deadline_are_all_refunded(
    tmp_path: Path, address: str
) -> None:
    bundle = make_bundle(tmp_path / "b", factory="sample_networks:Slow", seconds=0.3)
    settings = make_settings(tmp_path / "s", bundle, store=address, deadline_s=0.05)
    async with running(settings, budget=10) as (client, app):
        responses = await asyncio.gather(*(client.post(PATH, content=IMAGE) for _ in range(20)))
        assert {response.status_code for response in responses} <= {504, 429}
        ((_, budget),) = app.state.service.keys.all()
        assert budget.used == 0


def lock_is_awaited(other: Any) -> bool:
    """Check whether a connection lock_is_awaited for a lock."""
    found = other.execute("SELECT COUNT(*) FROM pg_locks WHERE NOT granted").fetchone()
    return bool(found[0])


@pytest.mark.anyio
async def test_request_waiting_for_the_store_does_not_block_others(
    tmp_path: Path, address: str
) -> None:
    async with running(configured(tmp_path, address)) as (client, _):
        with psycopg.connect(address) as other:
            other.execute("UPDATE budgets SET used = used")
            waiting = asyncio.create_task(client.post(PATH, content=IMAGE))
            async with asyncio.timeout(30):
                while not lock_is_awaited(other):
                    await asyncio.sleep(0.02)
            assert (await client.get("/v1/usage")).status_code == 200
            assert not waiting.done()
        assert (await waiting).status_code == 200


@pytest.mark.anyio
async def test_Q5_locked_row_is_a_503_after_the_lock_timeout(tmp_path: Path, address: str) -> None:
    async with running(configured(tmp_path, address)) as (client, app):
        with psycopg.connect(address) as other:
            other.execute("UPDATE budgets SET used = used")
            async with asyncio.timeout(30):
                response = await client.post(PATH, content=IMAGE)
            assert response.headers["X-Error-Code"] == "store_unavailable"
        assert (await client.post(PATH, content=IMAGE)).status_code == 200
        ((_, budget),) = app.state.service.keys.all()
        assert budget.used == 1


@pytest.mark.parametrize("full", ["model:m", "key:b"])
def test_Q1_charge_that_waited_for_another_counts_it(
    tmp_path: Path, address: str, full: str
) -> None:
    owners = ["key:b", "model:m"]
    with (
        closing(Database(tmp_path, store=address)) as database,
        psycopg.connect(address) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        budgets = Budgets(database)
        for owner in owners:
            budgets.set(owner, total=1, day_total=None)
        other.execute("UPDATE budgets SET used = 1 WHERE owner = %s", (full,))
        reserved = thread.submit(budgets.reserve, owners, 1)
        while not lock_is_awaited(other):
            time.sleep(0.02)
        other.commit()
        assert reserved.result() is None
        found = {owner: budget.used for owner in owners if (budget := budgets.get(owner))}
    assert found == {"key:b": 0, "model:m": 0} | {full: 1}


@pytest.mark.anyio
async def test_Q5_stopped_store_is_a_503_until_it_runs_again(
    tmp_path: Path, address: str, postgres_server: "Running"
) -> None:
    async with running(configured(tmp_path, address)) as (client, app):
        assert (await client.post(PATH, content=IMAGE)).status_code == 200
        postgres_server.stop()
        try:
            for path in (PATH, "/v1/usage"):
                response = await client.request("POST" if path == PATH else "GET", path)
                assert response.headers["X-Error-Code"] == "store_unavailable"
                assert "retry-after" in response.headers
            assert (await client.get("/v2/health/live")).status_code == 200
        finally:
            postgres_server.start()
        await wait_for_status(client, 200)
        ((_, budget),) = app.state.service.keys.all()
        assert budget.used == 2
        assert app.state.service.watch.action("somebody") == "none"  # the watch has not failed


def test_O1_ledger_cannot_be_truncated(tmp_path: Path, address: str) -> None:
    with closing(Database(tmp_path, store=address)) as database, pytest.raises(StoreUnavailable):
        database.execute("TRUNCATE ledger")


def test_concurrent_first_starts_create_the_tables_once(tmp_path: Path, address: str) -> None:
    def start(_: int) -> int:
        with closing(Database(tmp_path, store=address, lock_timeout_s=60)) as database:
            return int(database.execute("SELECT COUNT(*) FROM stingy").fetchone()[0])

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(start, range(6))) == [1] * 6


def test_server_with_another_pepper_is_refused(tmp_path: Path, address: str) -> None:
    Database(tmp_path / "one", store=address).close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pepper").write_bytes(bytes(32))
    with pytest.raises(StoreUnavailable, match="expected the pepper"):
        Database(tmp_path / "other", store=address)
    shutil.copy(tmp_path / "one" / "pepper", tmp_path / "other" / "pepper")
    Database(tmp_path / "other", store=address).close()


def test_host_without_a_pepper_makes_none_beside_a_used_store(tmp_path: Path, address: str) -> None:
    Database(tmp_path / "one", store=address).close()
    with pytest.raises(StoreUnavailable, match=r"expected the file pepper in .*, got none"):
        Database(tmp_path / "other", store=address)
    assert not (tmp_path / "other" / "pepper").exists()


def test_fault_of_an_absent_store_does_not_show_its_password(tmp_path: Path) -> None:
    settings = configured(tmp_path, "postgresql://stingy:s3cret@127.0.0.1:9/stingy")
    with pytest.raises(ConfigurationError) as raised:
        create_app(settings)
    assert "the store failed" in str(raised.value)
    assert "s3cret" not in f"{raised.value} {settings!r}"
    with pytest.raises(StoreUnavailable, match="expected a state folder"):
        Database(tmp_path / "absent", store=settings.store, create=False)


def test_rates_in_memory_beside_a_shared_store_are_warned_of(tmp_path: Path, address: str) -> None:
    service = create_app(configured(tmp_path, address)).state.service
    assert any("rate_store" in line for line in summary(service.fleet, service.settings))
    shared = replace(service, settings=configured(tmp_path, address, rate_store="redis://h:1"))
    assert not any("rate_store" in line for line in summary(shared.fleet, shared.settings))
    service.database.close()


def test_Q2_two_servers_share_one_budget_exactly_if_one_dies(tmp_path: Path, address: str) -> None:
    bundle = make_bundle(tmp_path / "b")
    key = make_key(tmp_path / "one", store=address, budget=300)
    (tmp_path / "two").mkdir()
    shutil.copy(tmp_path / "one" / "pepper", tmp_path / "two" / "pepper")
    clients = 4

    def query(url: str, times: int) -> list[int]:
        statuses = []
        with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
            for _ in range(times):
                try:
                    statuses.append(client.post(f"{url}{PATH}", content=IMAGE).status_code)
                except httpx.TransportError:  # the server was killed
                    break
        return statuses

    with (
        served(bundle, state=tmp_path / "one", STINGY_STORE=address) as (doomed, process),
        served(bundle, state=tmp_path / "two", STINGY_STORE=address) as (other, _),
        ThreadPoolExecutor(2 * clients) as threads,
    ):
        begun = [threads.submit(query, url, 1000) for url in (doomed,) * clients]
        begun += [threads.submit(query, other, 20) for _ in range(clients)]
        while _used(tmp_path / "two", address) < 60:
            time.sleep(0.05)
        process.kill()
        before = [status for each in begun for status in each.result()]
        after = query(other, 310)
    answered = [*before, *after].count(200)
    assert _used(tmp_path / "two", address) == 300
    assert 300 - clients <= answered <= 300
    assert after[-1] == 429


def _used(state: Path, store: str) -> int:
    with closing(Database(state, store=store)) as database:
        ((_, budget),) = Keys(database).all()
        return budget.used
