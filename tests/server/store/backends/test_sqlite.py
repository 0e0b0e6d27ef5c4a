"""The SQLite state: it knows its pepper, needs a local disk, and never blocks the event loop."""

import asyncio
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from file_lock import Locker, longest_stall
from serving import make_bundle, make_settings, png, random_images, running
from stingy_server import Budgets, Database
from stingy_server.store.backends.schema import VERSION
from stingy_server.store.base import StoreBusy, StoreUnavailable
from stingy_server.store.group_commit import GroupCommit

IMAGE = png(random_images(1)[0])
RELEASED = Path(__file__).parents[1] / "fixtures" / "state_0_1_0"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    Database(tmp_path / "state").close()
    return tmp_path / "state"


def test_Q5_state_with_another_pepper_is_refused(state: Path, tmp_path: Path) -> None:
    Database(tmp_path / "other").close()
    kept = (state / "pepper").read_bytes()
    shutil.copy(tmp_path / "other" / "pepper", state / "pepper")
    with pytest.raises(StoreUnavailable, match="expected the pepper"):
        Database(state)
    (state / "pepper").write_bytes(kept)
    Database(state).close()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("content", [b"no database" * 400, b"SQLite format 3\x00" + b"\xff" * 4080])
def test_state_that_is_no_database_is_refused_with_advice(
    state: Path, content: bytes, read_only: bool
) -> None:
    for file in state.glob("stingy.sqlite3*"):
        file.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="damaged file or one of another program: restore"):
        Database(state, read_only=read_only)


def test_Q5_state_of_0_1_0_gets_its_pepper_at_the_first_open(tmp_path: Path) -> None:
    shutil.copytree(RELEASED, tmp_path / "state")
    with closing(Database(tmp_path / "state")) as database:
        assert database.execute("SELECT version FROM stingy").fetchone() == (VERSION,)
    (tmp_path / "state" / "pepper").write_bytes(bytes(32))
    with pytest.raises(StoreUnavailable, match="expected the pepper"):
        Database(tmp_path / "state")


@pytest.mark.parametrize("released", [False, True])
def test_Q5_lost_pepper_is_not_replaced(state: Path, tmp_path: Path, released: bool) -> None:
    if released:  # such a file does not know its pepper, and would take any
        state = tmp_path / "released"
        shutil.copytree(RELEASED, state)
    (state / "pepper").unlink()
    with pytest.raises(StoreUnavailable, match=r"expected the file pepper in .*, got none"):
        Database(state)
    assert not (state / "pepper").exists()


def test_Q5_file_system_without_a_shared_log_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open the file as SQLite does where processes cannot share memory, such as on NFS."""
    connect = sqlite3.connect

    def without_shared_memory(path: Path, **options: object) -> sqlite3.Connection:
        return connect(f"file:{path}?vfs=unix-dotfile", **options | {"uri": True})  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(sqlite3, "connect", without_shared_memory)
    with pytest.raises(StoreUnavailable, match="expected a state folder on a local disk"):
        Database(tmp_path / "state")


def test_call_of_a_locked_file_fails_at_once_or_waits(state: Path) -> None:
    with closing(Database(state, lock_timeout_s=0.3)) as database:
        budgets = Budgets(database)

        def charge() -> None:
            budgets.set("key:a", total=1, day_total=None)

        locker = Locker(state / "stingy.sqlite3", 3)
        started = time.monotonic()
        with pytest.raises(StoreBusy):
            database.try_now(charge)
        tried_s = time.monotonic() - started
        with pytest.raises(StoreBusy):
            charge()
        assert tried_s < 0.2 < time.monotonic() - started
        locker.join()
        charge()


@pytest.mark.anyio
async def test_D1_file_locked_by_another_process_blocks_no_other_work(tmp_path: Path) -> None:
    """Post while a second process writes for two: the post waits; probes and reads do not."""
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, app):
        assert (await client.post("/v1/predict/digits", content=IMAGE)).status_code == 200
        locker = await asyncio.to_thread(Locker, tmp_path / "s" / "stingy.sqlite3", 2.0)
        waiting = asyncio.create_task(client.post("/v1/predict/digits", content=IMAGE))
        others = 0

        async def work() -> None:
            nonlocal others
            while not waiting.done():
                assert (await client.get("/v2/health/live")).status_code == 200
                assert (await client.get("/v1/usage")).status_code == 200
                others += 1
                await asyncio.sleep(0.01)

        # A blocked loop would serve nothing for two seconds.
        assert await longest_stall(work()) < 1.0
        assert others > 5
        assert (await waiting).status_code == 200
        ((_, budget),) = app.state.service.keys.all()
        assert budget.used == 2
        locker.join()


@pytest.mark.anyio
async def test_D1_writes_behind_a_locked_file_keep_their_order(state: Path) -> None:
    with closing(Database(state)) as database:
        writes, made = GroupCommit(database), []
        locker = Locker(state / "stingy.sqlite3", 0.5)
        first = [writes.submit(lambda n=n: made.append(n)) for n in range(3)]  # type: ignore[misc]
        await asyncio.sleep(0.1)
        second = [writes.submit(lambda n=n: made.append(n)) for n in range(3, 6)]  # type: ignore[misc]
        assert made == []
        await asyncio.gather(*first, *second)
        assert made == [*range(6)]
        locker.join()
        writes.close()


@pytest.mark.anyio
async def test_D1_file_locked_beyond_the_timeout_refuses_then_recovers(state: Path) -> None:
    with closing(Database(state, lock_timeout_s=0.3)) as database:
        writes = GroupCommit(database)
        locker = Locker(state / "stingy.sqlite3", 2.0)
        started = time.monotonic()
        with pytest.raises(StoreBusy):
            await writes.run(lambda: None)
        assert time.monotonic() - started < 0.3 + 1.0
        assert not database.health.ok
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await writes.run(lambda: None)
        async with asyncio.timeout(30):
            while not database.health.ok:
                await asyncio.sleep(0.05)
        assert await writes.run(lambda: 7) == 7
        locker.join()
        writes.close()
