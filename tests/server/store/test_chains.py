"""Row K2: a chain advances with its commit, whatever fails, and whoever else writes."""

import multiprocessing
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledgers import (
    ENTRY,
    append_and_die,
    append_many,
    append_uncommitted_and_die,
    assert_verified_after_failures,
    chain_faults,
    charge_and_append,
    present_heads,
)
from stingy_server import Database, Keys, StoreUnavailable
from stingy_server.store.base import OutcomeUnknown
from stingy_server.store.ledger import MOST_ROWS, Ledger

SPAWN = multiprocessing.get_context("spawn")


def entries(state: Path, store: str | None) -> int:
    with closing(Database(state, store=store)) as database:
        return len([*Ledger(database).entries()])


def test_K2_rolled_back_entries_leave_the_chain_as_it_was(
    tmp_path: Path, store: str | None
) -> None:
    assert_verified_after_failures(Ledger, tmp_path, store)


def test_K2_chain_goes_on_after_a_commit_without_an_answer(
    tmp_path: Path, store: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Database(tmp_path, store=store)) as database:
        ledger = Ledger(database)
        ledger.append(ENTRY)
        execute = database.execute

        def commit_unanswered(statement: str, values: Any = ()) -> Any:
            done = execute(statement, values)
            if statement == "COMMIT":
                raise StoreUnavailable("no answer")
            return done

        monkeypatch.setattr(database, "execute", commit_unanswered)
        with pytest.raises(OutcomeUnknown):
            ledger.append(ENTRY)
        monkeypatch.setattr(database, "execute", execute)
        ledger.append(ENTRY)
    assert entries(tmp_path, store) == 3
    assert chain_faults(tmp_path, store) == []


def test_K2_threads_of_a_process_share_one_chain(tmp_path: Path, store: str | None) -> None:
    with closing(Database(tmp_path, store=store, lock_timeout_s=60)) as database:
        shared = Ledger(database)

        def append(number: int) -> None:
            ledger = shared if number % 2 else Ledger(database)
            for _ in range(10):
                ledger.append(ENTRY, ENTRY)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(append, range(8)))
    (head,) = present_heads(tmp_path, store)
    assert head.number == entries(tmp_path, store) == 160
    assert chain_faults(tmp_path, store) == []


def test_K2_more_entries_than_one_statement_takes(tmp_path: Path, store: str | None) -> None:
    with closing(Database(tmp_path, store=store)) as database:
        Ledger(database).append(*[ENTRY] * (2 * MOST_ROWS + 1))
    assert entries(tmp_path, store) == 2 * MOST_ROWS + 1
    assert chain_faults(tmp_path, store) == []


def test_K2_processes_that_write_at_once_have_a_chain_each(
    tmp_path: Path, store: str | None
) -> None:
    Database(tmp_path, store=store).close()
    processes = [SPAWN.Process(target=append_many, args=(tmp_path, store, 150)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [head.number for head in present_heads(tmp_path, store)] == [150] * 3
    assert chain_faults(tmp_path, store) == []


@pytest.mark.parametrize(("die", "kept"), [(append_and_die, 5), (append_uncommitted_and_die, 1)])
def test_K2_process_killed_around_a_commit_leaves_a_chain(
    tmp_path: Path, store: str | None, die: Any, kept: int
) -> None:
    Database(tmp_path, store=store).close()
    process = SPAWN.Process(target=die, args=(tmp_path, store))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert entries(tmp_path, store) == kept
    assert [head.number for head in present_heads(tmp_path, store)] == [kept]
    assert chain_faults(tmp_path, store) == []


def test_K2_writers_killed_at_any_time_leave_chains(tmp_path: Path, store: str | None) -> None:
    with closing(Database(tmp_path, store=store)) as database:
        key, _ = Keys(database).create("k", budget=None)
    write = partial(charge_and_append, tmp_path, store, key.id)
    for pause in (0.05, 0.11, 0.17):
        processes = [SPAWN.Process(target=write) for _ in range(2)]
        for process in processes:
            process.start()
        before = entries(tmp_path, store)
        while entries(tmp_path, store) < before + 20:
            time.sleep(0.02)
        time.sleep(pause)
        for process in processes:
            process.kill()
            process.join(60)
        assert chain_faults(tmp_path, store) == []
    with closing(Database(tmp_path, store=store)) as database:
        ((_, budget),) = Keys(database).all()
    assert budget.used == entries(tmp_path, store) >= 60
