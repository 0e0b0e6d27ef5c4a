"""Keys: shown once, stored as digests, valid until revoked, expired or rotated."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pytest

from stingy_server import Database, Keys, StoreUnavailable
from stingy_server.store.key import Caller

only_sqlite = pytest.mark.parametrize("store", [None])


@pytest.fixture
def database(tmp_path: Path, store: str | None) -> Iterator[Database]:
    with closing(Database(tmp_path / "state", store=store)) as database:
        yield database


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database)


def test_key_is_valid_until_any_process_revokes_it(database: Database, keys: Keys) -> None:
    key, text = keys.create("k", budget=1)
    with closing(database.reopen()) as other:
        other_keys = Keys(other)
        assert other_keys.authenticate(text) == Caller(key, False, 0)
        assert keys.revoke(key.id)
        assert other_keys.authenticate(text) is None
        assert not keys.revoke(key.id)


def test_rotated_key_keeps_its_budget_and_loses_its_old_text(keys: Keys) -> None:
    key, old = keys.create("k", budget=7, tier="partner")
    new = keys.rotate(key.id)
    assert new is not None
    assert keys.authenticate(old) is None
    assert keys.authenticate(new) == Caller(key, False, 1)
    assert keys.budget(key).total == 7
    keys.revoke(key.id)
    assert keys.rotate(key.id) is None


def test_key_is_invalid_after_its_expiry(keys: Keys) -> None:
    soon = datetime.now(UTC) + timedelta(days=1)
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert keys.authenticate(keys.create("k", budget=1, expires=soon)[1]) is not None
    assert keys.authenticate(keys.create("k", budget=1, expires=past)[1]) is None


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_batched_lookup_finds_the_same_keys_in_one_query(
    database: Database, keys: Keys, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [keys.create("k", budget=1) for _ in range(count)]
    keys.revoke(made[0][0].id)
    texts = [text for _, text in made] + ["stranger", made[-1][1]]
    one_by_one = [keys.authenticate(text) for text in texts]
    valid = [Caller(key, False, 1) for key, _ in made[1:]]
    assert one_by_one == [None, *valid, None, one_by_one[-1]]
    queries = []
    execute = database.execute

    def recording(statement: str, values: object) -> object:
        queries.append(statement)
        return execute(statement, values)

    monkeypatch.setattr(database, "execute", recording)
    assert keys.authenticate_all(texts) == one_by_one
    assert len(queries) == 1


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[31m", "x" * 65])
def test_unprintable_or_long_names_are_refused(keys: Keys, name: str) -> None:
    with pytest.raises(ValueError, match="expected a name"):
        keys.create(name, budget=1)
    with pytest.raises(ValueError, match="600/minute"):
        keys.create("k", budget=1, rate="often")
    assert keys.all() == []


@pytest.mark.parametrize("text", ["", "stingy", "stingy_0_x", "' OR 1=1 --", "ключ", "\udc80"])
def test_A6_texts_of_no_key_are_not_authenticated(keys: Keys, text: str) -> None:
    keys.create("k", budget=1)
    assert keys.authenticate(text) is None


@only_sqlite
def test_A4_key_text_is_nowhere_on_disk(keys: Keys, tmp_path: Path) -> None:
    key, text = keys.create("k", budget=1)
    secret = text.split("_", 2)[2].encode()
    files = [path for path in (tmp_path / "state").iterdir() if path.is_file()]
    assert len(files) >= 2
    assert not any(secret in path.read_bytes() for path in files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    assert secret.decode() not in repr(key)


@only_sqlite
def test_A3_locked_state_raises_store_unavailable(keys: Keys, tmp_path: Path) -> None:
    _, text = keys.create("k", budget=5)
    path = tmp_path / "state" / "stingy.sqlite3"
    with (
        closing(Database(tmp_path / "state", lock_timeout_s=0.05)) as impatient,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable):
            Keys(impatient).create("k", budget=1)
        other.execute("ROLLBACK")
        assert Keys(impatient).authenticate(text) is not None


def test_Q5_broken_or_missing_state_raises_store_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreUnavailable):
        Database(tmp_path / "file")
    with pytest.raises(StoreUnavailable):
        Database(tmp_path / "absent", create=False)
    assert not (tmp_path / "absent").exists()
    state = tmp_path / "state"
    Database(state).close()
    (state / "stingy.sqlite3").write_bytes(b"this is not a database, and never was one" * 100)
    with pytest.raises(StoreUnavailable):
        Database(state)


@pytest.mark.parametrize("size", [0, 15, 65])
def test_A4_pepper_of_a_wrong_size_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "pepper").write_bytes(bytes(size))
    with pytest.raises(StoreUnavailable, match=f"16 to 64 bytes .* got {size}"):
        Database(tmp_path)
    assert not (tmp_path / "stingy.sqlite3").exists()


def test_state_of_a_later_release_is_refused(database: Database) -> None:
    later = "UPDATE stingy SET version = 99" if database.remote else "PRAGMA user_version = 99"
    database.execute(later)
    with pytest.raises(StoreUnavailable, match="99"):
        database.reopen()


def test_concurrent_first_starts_create_one_key(
    database: Database, store: str | None, tmp_path: Path
) -> None:
    barrier = Barrier(4)

    def start(_: int) -> str | None:
        with closing(Database(tmp_path / "state", store=store, lock_timeout_s=60)) as own:
            barrier.wait(timeout=60)
            return Keys(own).create_first(budget=3)

    with ThreadPoolExecutor(4) as threads:
        texts = [text for text in threads.map(start, range(4)) if text is not None]
    assert len(texts) == 1
    ((key, budget),) = Keys(database).all()
    assert Keys(database).authenticate(texts[0]) == Caller(key, False, 0)
    assert budget.total == 3
