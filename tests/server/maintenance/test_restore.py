"""Rows K4 and K5: what a restore refuses, and what it names of what comes back."""

import json
import multiprocessing
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from ledgers import ENTRY, chain_faults, change_by_hand
from released import KEY, RELEASED, released_postgres
from stingy_server import Budgets, Database, Keys, StoreUnavailable
from stingy_server.detection.key_profiles import Action, KeyProfileStore, Observation
from stingy_server.maintenance.backup import MANIFEST, back_up
from stingy_server.maintenance.restore import restore
from stingy_server.settings import ModelSettings
from stingy_server.store.budgets import key_model_owner, key_owner, model_owner
from stingy_server.store.database import FILE
from stingy_server.store.deployments import Deployment, Deployments
from stingy_server.store.ledger import Ledger
from stingy_server.store.pepper import PEPPER


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Make a backup of a file with one key, "first", of 5 images, 2 of them charged."""
    with closing(Database(tmp_path / "origin")) as database:
        key, _ = Keys(database).create("first", budget=5)
        Budgets(database).reserve([key_owner(key.id)], 2)
        Ledger(database).append(ENTRY, ENTRY)
    back_up(tmp_path / "origin", None, tmp_path / "backup")
    return tmp_path / "backup"


def write_state(state: Path, store: str | None) -> None:
    with closing(Database(state, store=store)) as database:
        Keys(database).create("present", budget=1)


def names(state: Path, store: str | None) -> list[str]:
    with closing(Database(state, store=store)) as database:
        return [key.name for key, _ in Keys(database).all()]


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-4096])


def change_a_byte(folder: Path) -> None:
    content = bytearray((folder / FILE).read_bytes())
    content[-1] ^= 1
    (folder / FILE).write_bytes(content)


def change_pepper(folder: Path) -> None:
    (folder / PEPPER).write_bytes(bytes(32))


def forge_pepper(folder: Path) -> None:
    """Change the pepper and the manifest, as a copy of another state's pepper does."""
    change_pepper(folder)
    edit_manifest(folder, files_pepper_sha256=sha256(bytes(32)).hexdigest())


def edit_manifest(folder: Path, **values: object) -> None:
    document = json.loads((folder / MANIFEST).read_bytes())
    for name, value in values.items():
        if name == "files_pepper_sha256":
            document["files"][PEPPER]["sha256"] = value
        else:
            document[name] = value
    (folder / MANIFEST).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (remove(MANIFEST), "not whole"),
        (remove(FILE), "got none"),
        (remove(PEPPER), "got none"),
        (cut, "got another"),
        (change_a_byte, "got another"),
        (change_pepper, "got another"),
        (forge_pepper, "expected the pepper"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "expected a manifest"),
        (lambda folder: edit_manifest(folder, format=2), "expected a manifest"),
        (lambda folder: edit_manifest(folder, more=1), "expected a manifest"),
        (lambda folder: edit_manifest(folder, version=99), "version"),
        (lambda folder: edit_manifest(folder, heads=[]), "what the manifest says"),
    ],
)
def test_K4_backup_that_is_not_whole_is_refused(
    backup: Path, tmp_path: Path, store: str | None, break_it: Callable[[Path], object], reason: str
) -> None:
    state = tmp_path / "state"
    write_state(state, store)
    break_it(backup)
    with pytest.raises(StoreUnavailable, match=reason):
        restore(backup, state, store, replace=True)
    assert names(state, store) == ["present"]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM ledger WHERE seq = 2",
        "DELETE FROM ledger WHERE seq = 3",
        "UPDATE ledger SET answered = 0 WHERE seq = 1",
        "DELETE FROM ledger_heads",
    ],
)
def test_K4_backup_of_a_broken_ledger_is_refused(
    statement: str, tmp_path: Path, store: str | None
) -> None:
    state, origin = tmp_path / "state", tmp_path / "origin"
    write_state(state, store)
    with closing(Database(origin)) as database:
        Ledger(database).append(ENTRY, ENTRY, ENTRY)
    change_by_hand(origin, None, statement)
    back_up(origin, None, tmp_path / "backup")
    with pytest.raises(StoreUnavailable, match="that can be verified, got a broken one: chain"):
        restore(tmp_path / "backup", state, store, replace=True)
    assert names(state, store) == ["present"]


def test_backup_beside_a_server_of_0_1_0_is_restored(tmp_path: Path) -> None:
    """Such a server, during an upgrade, writes entries that are in no chain."""
    with closing(Database(tmp_path / "origin")) as database:
        Ledger(database).append(ENTRY)
        database.execute(
            "INSERT INTO ledger (time, request, key, model, version, fingerprint, images, "
            "answered, bits, status, event, latency_us) "
            "VALUES ('2026', 'r', 'k', 'm', '1', 'f', 1, 0, 0, 429, 'rate_limited', 1)"
        )
    back_up(tmp_path / "origin", None, tmp_path / "backup")
    assert len(chain_faults(tmp_path / "origin", None)) == 1
    restore(tmp_path / "backup", tmp_path / "state", None, replace=False)
    assert len(chain_faults(tmp_path / "state", None)) == 1


def test_K4_state_is_replaced_only_with_permission(
    backup: Path, tmp_path: Path, store: str | None
) -> None:
    state = tmp_path / "state"
    write_state(state, store)
    shutil.copy(backup / PEPPER, tmp_path / "same")
    with pytest.raises(StoreUnavailable, match="--replace"):
        restore(backup, state, store, replace=False)
    assert names(state, store) == ["present"]
    restore(backup, state, store, replace=True)
    assert names(state, store) == ["first"]
    with pytest.raises(StoreUnavailable, match="expected an empty"):  # now with the same pepper
        restore(backup, state, store, replace=False)


def test_K4_folder_with_another_pepper_is_refused(
    backup: Path, tmp_path: Path, store: str | None
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / PEPPER).write_bytes(bytes(32))
    with pytest.raises(StoreUnavailable, match="pepper"):
        restore(backup, state, store, replace=False)
    assert [path.name for path in state.iterdir()] == [PEPPER]


def use(state: Path, store: str | None, used: Event, ended: Event) -> None:
    """Use a state as an idle server does, which has a connection open."""
    with closing(Database(state, store=store)) as database:
        Ledger(database).last(0)
        used.set()
        ended.wait(60)


@pytest.fixture
def in_use(tmp_path: Path, store: str | None) -> Iterator[None]:
    """Let another process use the state."""
    write_state(tmp_path / "state", store)
    context = multiprocessing.get_context("spawn")
    used, ended = context.Event(), context.Event()
    process = context.Process(target=use, args=(tmp_path / "state", store, used, ended))
    process.start()
    assert used.wait(60)
    yield
    ended.set()
    process.join()


@pytest.mark.usefixtures("in_use")
def test_K4_state_in_use_is_refused(backup: Path, tmp_path: Path, store: str | None) -> None:
    with pytest.raises(StoreUnavailable, match=r"expected no (process|server)"):
        restore(backup, tmp_path / "state", store, replace=True)
    assert names(tmp_path / "state", store) == ["present"]


def test_K4_state_of_a_server_that_reported_is_refused(
    backup: Path, tmp_path: Path, address: str
) -> None:
    """Restore behind a pool, whose sessions do not show the servers."""
    with closing(Database(tmp_path / "state", store=address)) as database:
        Deployments(database).report("1", [])
        database.execute(
            "INSERT INTO serving (process, name, version, policy, seen) "
            "SELECT '1', 'm', '1', 'p', EXTRACT(EPOCH FROM now())"
        )
    with pytest.raises(StoreUnavailable, match="expected no server"):
        restore(backup, tmp_path / "state", address, replace=True)


@pytest.mark.parametrize("content", [b"", b"no database", bytes(8192)])
def test_damaged_state_is_replaced_and_cannot_be_compared(
    backup: Path, tmp_path: Path, content: bytes
) -> None:
    state = tmp_path / "state"
    write_state(state, None)
    (state / FILE).write_bytes(content)
    if content:
        shutil.copy(backup / PEPPER, state / PEPPER)
        with pytest.raises(StoreUnavailable, match="got a damaged state: --replace puts"):
            restore(backup, state, None, replace=False)
        assert (state / FILE).read_bytes() == content
    assert restore(backup, state, None, replace=True).returned is None
    assert names(state, None) == ["first"]


def test_restored_state_works_in_either_store(
    backup: Path, tmp_path: Path, store: str | None
) -> None:
    state = tmp_path / "new" / "state"
    restored = restore(backup, state, store, replace=False)
    assert restored.returned is None  # there was no state, so nothing can be named
    with closing(Database(state, store=store)) as database:
        ((key, budget),) = Keys(database).all()
        assert (key.name, budget.used) == ("first", 2)
        assert Budgets(database).reserve([key_owner(key.id)], 4) is None
        Ledger(database).append(ENTRY)
        assert [seq for seq, _ in Ledger(database).entries()] == [1, 2, 3]
        with pytest.raises(StoreUnavailable):
            database.execute("DELETE FROM ledger")
    assert chain_faults(state, store) == []
    assert (state / PEPPER).read_bytes() == (backup / PEPPER).read_bytes()


def test_state_moves_from_postgresql_to_a_file(tmp_path: Path, address: str) -> None:
    with closing(Database(tmp_path / "there", store=address)) as database:
        _, secret = Keys(database).create("moved", budget=3)
        Ledger(database).append(ENTRY)
    back_up(tmp_path / "there", address, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "here", None, replace=False)
    with closing(Database(tmp_path / "here")) as database:
        assert Keys(database).authenticate(secret) is not None
        Ledger(database).append(ENTRY)
    assert chain_faults(tmp_path / "here", None) == []


def test_backup_of_0_1_0_is_restored_and_upgraded_later(tmp_path: Path, store: str | None) -> None:
    shutil.copytree(RELEASED, tmp_path / "old")
    back_up(tmp_path / "old", None, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "state", store, replace=False)
    with closing(Database(tmp_path / "state", store=store)) as database:
        assert Keys(database).authenticate(KEY) is not None


def test_K5_what_comes_back_is_named(tmp_path: Path, store: str | None) -> None:
    state, folder = tmp_path / "state", tmp_path / "backup"
    with closing(Database(state, store=store)) as database:
        keys, budgets, ledger = Keys(database), Budgets(database), Ledger(database)
        deployments = Deployments(database)
        ids = {name: keys.create(name, budget=50)[0].id for name in ("kept", "revoked", "rotated")}
        budgets.set(model_owner("digits"), total=90, day_total=None)
        gone = Deployment("digits", "2", ModelSettings(bundle=Path("b")), "0")
        deployments.upsert(gone)
        ledger.append(ENTRY)
        back_up(state, store, folder)
        keys.revoke(ids["revoked"])
        keys.rotate(ids["rotated"])
        ids["new"] = keys.create("new", budget=1)[0].id
        budgets.reserve([key_owner(ids["revoked"]), model_owner("digits")], 7)
        budgets.set(key_owner(ids["rotated"]), total=60, day_total=None)
        later = [model_owner("letters"), key_model_owner(ids["rotated"], "letters")]
        for owner in (*later, key_model_owner(ids["new"], "letters")):
            budgets.set(owner, total=60, day_total=None)
            budgets.reserve([owner], 3)
        KeyProfileStore(database).add(
            ids["rotated"], Observation(), alarm=0.0, ladder=[Action.REFUSE]
        )
        deployments.delete("digits", "2")
        deployments.upsert(Deployment("digits", "3", gone.settings, "0"))
        ledger.append(ENTRY, ENTRY)
    named = restore(folder, state, store, replace=True).returned
    assert named is not None

    def has(*words: str) -> bool:
        return any(all(word in line for word in words) for line in named)

    assert has(ids["revoked"], "(revoked)", "valid again")
    assert has(ids["rotated"], "rotated after the backup")
    assert has(ids["rotated"], "budgets changed after the backup")
    assert has(ids["rotated"], "step was refuse", "none")
    assert has(ids["new"], "created after the backup")
    assert has(ids["revoked"], "7 images")
    assert has("model digits", "7 images")
    assert has("model letters", "3 images")
    assert has(f"key {ids['rotated']} letters", "3 images")
    assert sum(ids["new"] in line for line in named) == 1
    assert has("digits 3", "not served any more")
    assert has("digits 2", "served again")
    assert has("the ledger", "2 to")
    assert not has(ids["kept"])
    assert sorted(names(state, store)) == ["kept", "revoked", "rotated"]


def test_K5_restore_without_later_changes_names_nothing(tmp_path: Path, store: str | None) -> None:
    state = tmp_path / "state"
    if store is not None:
        released_postgres(store)
    shutil.copytree(RELEASED, state)
    back_up(state, store, tmp_path / "backup")
    assert restore(tmp_path / "backup", state, store, replace=True).returned == []


def test_K4_restore_cut_at_its_end_has_the_pepper(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = sqlite3.Connection.backup
    state = tmp_path / "state"

    class Cut(sqlite3.Connection):
        def backup(self, target: sqlite3.Connection, **options: Any) -> None:
            copy(self, target, **options)
            raise KeyboardInterrupt  # as if the command ended right behind its transaction

    connect = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *a, **o: connect(*a, **o, factory=Cut))
        with pytest.raises(KeyboardInterrupt):
            restore(backup, state, None, replace=False)
    assert (state / PEPPER).read_bytes() == (backup / PEPPER).read_bytes()
    assert names(state, None) == ["first"]
