"""Row K7: a state that release 0.1.0 wrote is upgraded, in a file and in PostgreSQL, and goes on.

It has two keys, one of them revoked, four requests in the ledger, one key in alarm and one
deployed version. Its pepper and keys are used nowhere else.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ledgers import chain_faults
from released import KEY, KEY_ID, RELEASED, released_postgres
from stingy_server import Budgets, Database, Keys, StoreUnavailable
from stingy_server.detection.key_profiles import Action, KeyProfileStore
from stingy_server.maintenance.check import check_state
from stingy_server.store import database as database_module
from stingy_server.store.backends.schema import MIGRATIONS, VERSION
from stingy_server.store.budgets import key_owner, model_owner
from stingy_server.store.database import FILE
from stingy_server.store.deployments import Deployments
from stingy_server.store.ledger import Ledger

EVENTS = ["start", "answer", "answer", "answer", "unsupported_image", "stop", "alarm_labels"]


@pytest.fixture
def state(tmp_path: Path, store: str | None) -> Path:
    """Return a folder with a state of 0.1.0, or with its pepper beside the state in `store`."""
    shutil.copytree(RELEASED, tmp_path / "state")
    if store is not None:
        released_postgres(store)
        (tmp_path / "state" / FILE).unlink()
    return tmp_path / "state"


@pytest.fixture
def database(state: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(state, store=store, create=False)) as database:
        yield database


def test_K7_state_opens_at_the_present_version(database: Database) -> None:
    assert database.execute("SELECT version FROM stingy").fetchone() == (VERSION,)
    with closing(database.reopen()) as other:
        assert other.pepper == database.pepper


def test_K7_keys_authenticate(database: Database) -> None:
    keys = Keys(database)
    caller = keys.authenticate(KEY)
    assert caller is not None
    key = caller.key
    assert (key.id, key.name, key.rate) == (KEY_ID, "first customer", "600/minute")
    assert [found.revoked is None for found, _ in keys.all()] == [True, False]
    assert keys.changes() == 0
    assert keys.revoke(KEY_ID)
    assert keys.authenticate(KEY) is None


def test_K7_budgets_keep_their_charges(database: Database) -> None:
    budgets = Budgets(database)
    owners = [key_owner(KEY_ID), model_owner("digits")]
    assert [found.used for owner in owners if (found := budgets.get(owner))] == [3, 3]
    assert budgets.reserve(owners, 97) is not None
    assert budgets.reserve(owners, 1) is None


def test_K7_ledger_is_read_extended_and_verified(
    database: Database, state: Path, store: str | None
) -> None:
    ledger = Ledger(database)
    entries = [entry for _, entry in ledger.entries()]
    assert [entry.event for entry in entries] == EVENTS
    assert all(entry.key == KEY_ID for entry in entries if entry.event == "answer")
    assert sum(entry.answered for entry in entries) == 3
    ledger.append(entries[0])
    assert ledger.last(0) == len(EVENTS) + 1
    assert chain_faults(state, store) == []
    with pytest.raises(StoreUnavailable):
        database.execute("DELETE FROM ledger")
    assert check_state(state, store).faults == []


def test_K7_entry_of_a_server_of_0_1_0_beside_is_named(
    database: Database, state: Path, store: str | None
) -> None:
    columns = "time, request, key, model, version, fingerprint, images, answered, bits, status, "
    columns += "event, latency_us"
    as_released = (
        f"INSERT INTO ledger ({columns}) VALUES ('t', 'r', 'k', 'm', '1', 'f', 1, 1, 1.5, 200, "  # noqa: S608
        "'answer', 9)"
    )
    database.execute(as_released)
    assert chain_faults(state, store) == []
    ledger = Ledger(database)
    ledger.append(next(entry for _, entry in ledger.entries()))
    database.execute(as_released)
    (fault,) = chain_faults(state, store)
    assert fault.startswith("entry 10: in no chain")


def test_K7_upgrade_that_fails_changes_nothing(
    state: Path, store: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        broken = (f"{MIGRATIONS[0]}DROP TABLE absent;\n",)
        patched.setattr(database_module, "MIGRATIONS", broken)
        with pytest.raises(StoreUnavailable):
            Database(state, store=store)
    assert "version 3" in check_state(state, store).notes[0]
    with closing(Database(state, store=store)) as database:
        assert Keys(database).authenticate(KEY) is not None


def test_K7_alarms_and_deployments_still_apply(database: Database) -> None:
    profiles = KeyProfileStore(database)
    assert profiles.actions() == {KEY_ID: Action.LABELS}
    assert profiles.get(KEY_ID).near_share == pytest.approx(2 / 3, abs=0.01)
    (deployment,) = Deployments(database).desired()
    assert (deployment.name, deployment.version, deployment.bundle) == ("digits", "2", "0" * 64)
    assert deployment.settings.share == 0.25
    assert Deployments(database).reports() == []
