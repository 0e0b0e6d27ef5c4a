"""A state folder that release 0.1.0 wrote: this release opens it and reads all of it.

The folder has two keys, one of them revoked, four requests in the ledger, one key in alarm and one
deployed version. Its pepper and keys are used nowhere else.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stingy_server import Budgets, Database, Keys
from stingy_server.detection.key_profiles import Action, KeyProfileStore
from stingy_server.store.budgets import key_owner, model_owner
from stingy_server.store.deployments import Deployments
from stingy_server.store.ledger import Ledger
from stingy_server.store.schema import VERSION

RELEASED = Path(__file__).parent / "fixtures" / "state_0_1_0"
KEY_ID = "d76f3119"
KEY = "stingy_d76f3119_1YbX7nTF0aF9nvQnZMk3PsDdQbfulGIazoB-1r7ekGU"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    shutil.copytree(RELEASED, tmp_path / "state")
    with closing(Database(tmp_path / "state", create=False)) as database:
        yield database


def test_state_of_0_1_0_opens_at_the_present_version(database: Database) -> None:
    assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
    with closing(database.reopen()) as other:
        assert other.pepper == database.pepper


def test_keys_of_0_1_0_authenticate(database: Database) -> None:
    keys = Keys(database)
    caller = keys.authenticate(KEY)
    assert caller is not None
    key = caller.key
    assert (key.id, key.name, key.rate) == (KEY_ID, "first customer", "600/minute")
    assert [found.revoked is None for found, _ in keys.all()] == [True, False]


def test_budgets_of_0_1_0_keep_their_charges(database: Database) -> None:
    budgets = Budgets(database)
    owners = [key_owner(KEY_ID), model_owner("digits")]
    assert [found.used for owner in owners if (found := budgets.get(owner))] == [3, 3]
    assert budgets.reserve(owners, 97) is not None
    assert budgets.reserve(owners, 1) is None


def test_ledger_of_0_1_0_can_be_read_and_extended(database: Database) -> None:
    ledger = Ledger(database)
    entries = [entry for _, entry in ledger.entries()]
    events = ["start", "answer", "answer", "answer", "unsupported_image", "stop", "alarm_labels"]
    assert [entry.event for entry in entries] == events
    assert all(entry.key == KEY_ID for entry in entries if entry.event == "answer")
    assert sum(entry.answered for entry in entries) == 3
    ledger.append(entries[0])
    assert ledger.last(0) == len(events) + 1


def test_alarms_and_deployments_of_0_1_0_still_apply(database: Database) -> None:
    profiles = KeyProfileStore(database)
    assert profiles.actions() == {KEY_ID: Action.LABELS}
    assert profiles.get(KEY_ID).near_share == pytest.approx(2 / 3, abs=0.01)
    (deployment,) = Deployments(database).desired()
    assert (deployment.name, deployment.version, deployment.bundle) == ("digits", "2", "0" * 64)
    assert deployment.settings.share == 0.25
    assert Deployments(database).reports() == []
