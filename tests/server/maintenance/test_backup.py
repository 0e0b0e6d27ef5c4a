"""Row K3: a backup is one moment of the state, there whole or not at all, and private."""

import json
import multiprocessing
import shutil
import stat
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from ledgers import ENTRY, charge_and_append, present_heads
from released import RELEASED, released_postgres
from stingy_server import Database, Keys, StoreUnavailable
from stingy_server.maintenance import backup as backup_module
from stingy_server.maintenance.backup import MANIFEST, back_up, open_backup, read_backup
from stingy_server.maintenance.verify import verify
from stingy_server.store.backends.schema import VERSION
from stingy_server.store.database import FILE
from stingy_server.store.ledger import Ledger
from stingy_server.store.pepper import PEPPER


def test_K3_backup_beside_a_writer_is_one_moment(tmp_path: Path, store: str | None) -> None:
    state = tmp_path / "state"
    with closing(Database(state, store=store)) as database:
        key, _ = Keys(database).create("k", budget=None)
        context = multiprocessing.get_context("spawn")
        writer = context.Process(target=partial(charge_and_append, state, store, key.id))
        writer.start()
        while Ledger(database).last(0) < 100:
            time.sleep(0.02)
        found = []
        for number in range(3):
            folder = tmp_path / f"backup-{number}"
            manifest = back_up(state, store, folder)
            with closing(open_backup(folder, read_backup(folder))) as backup:
                ((used,),) = backup.rows("SELECT used FROM budgets")
                assert verify(backup).faults == []
                assert used == verify(backup).chained == manifest.entries
                found.append(used)
        writer.kill()
        writer.join()
    assert 100 <= found[0] < found[1] < found[2]


def test_K3_backup_has_all_rows_and_the_heads(tmp_path: Path, store: str | None) -> None:
    state, folder = tmp_path / "state", tmp_path / "backup"
    with closing(Database(state, store=store)) as database:
        _, secret = Keys(database).create("naïve", budget=5)
        Ledger(database).append(ENTRY._replace(pixels=None, bits=0.1 + 0.2), ENTRY)
        written = [*Ledger(database).entries()]
    manifest = back_up(state, store, folder)
    assert (manifest.version, manifest.entries) == (VERSION, 2)
    heads = [head.fields() for head in present_heads(state, store)]
    assert [head.model_dump() for head in manifest.heads] == heads
    with closing(Database(folder)) as database:  # opening it as a state changes it
        assert Keys(database).authenticate(secret) is not None
        assert [*Ledger(database).entries()] == written


def test_K3_backup_is_readable_by_its_owner_alone(tmp_path: Path, store: str | None) -> None:
    Database(tmp_path / "state", store=store).close()
    back_up(tmp_path / "state", store, tmp_path / "backup")
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in [tmp_path / "backup", *(tmp_path / "backup").iterdir()]
    }
    assert modes == {"backup": 0o700, FILE: 0o600, PEPPER: 0o600, MANIFEST: 0o600}


@pytest.mark.parametrize("step", ["_write_copy", "_describe", "_sync"])
def test_K3_backup_that_fails_leaves_nothing(
    tmp_path: Path, store: str | None, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    state = tmp_path / "state"
    Database(state, store=store).close()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup_module, step, fail)
    with pytest.raises(StoreUnavailable, match="No space left on device"):
        back_up(state, store, tmp_path / "backup")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_K3_backup_replaces_no_folder(tmp_path: Path) -> None:
    Database(tmp_path / "state").close()
    (tmp_path / "backup").mkdir()
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "backup", tmp_path / "file" / "backup"):
        with pytest.raises(StoreUnavailable):
            back_up(tmp_path / "state", None, target)
    assert [*(tmp_path / "backup").iterdir()] == []


def test_backup_makes_the_folders_above_its_own(tmp_path: Path) -> None:
    Database(tmp_path / "state").close()
    back_up(tmp_path / "state", None, tmp_path / "backups" / "monday")
    assert [*(tmp_path / "backups" / "monday").iterdir()]


def test_K3_state_of_0_1_0_is_copied_and_not_upgraded(tmp_path: Path, store: str | None) -> None:
    state = tmp_path / "state"
    shutil.copytree(RELEASED, state)
    if store is not None:
        released_postgres(store)
        (state / FILE).unlink()
    manifest = back_up(state, store, tmp_path / "backup")
    assert (manifest.version, manifest.entries, manifest.heads) == (3, 7, [])
    with closing(open_backup(tmp_path / "backup", manifest)) as backup:
        assert backup.version == 3
        released = backup.rows("SELECT id, revoked IS NULL FROM keys ORDER BY created")
        assert [valid for _, valid in released] == [1, 0]
    if store is None:
        assert (state / FILE).read_bytes() == (RELEASED / FILE).read_bytes()


def test_K3_damaged_state_and_wrong_pepper_are_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with closing(Database(state)) as database:
        Ledger(database).append(*[ENTRY] * 2000)
    kept = (state / PEPPER).read_bytes()
    (state / PEPPER).write_bytes(bytes(32))
    with pytest.raises(StoreUnavailable, match="expected the pepper"):
        back_up(state, None, tmp_path / "backup")
    (state / PEPPER).write_bytes(kept)
    content = bytearray((state / FILE).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8192] = bytes(8192)
    (state / FILE).write_bytes(content)
    with pytest.raises(StoreUnavailable, match="damaged"):
        back_up(state, None, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_manifest_is_a_document(tmp_path: Path) -> None:
    Database(tmp_path / "state").close()
    back_up(tmp_path / "state", None, tmp_path / "backup")
    document = json.loads((tmp_path / "backup" / MANIFEST).read_bytes())
    assert (document["format"], document["store"]) == (1, "sqlite")
    assert sorted(document["files"]) == [PEPPER, FILE]
