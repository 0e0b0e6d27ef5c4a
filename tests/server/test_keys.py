"""Keys and budgets: exact under many processes, secret on disk, closed when the store fails."""

import multiprocessing
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serving import spend
from stingy_server import KeyStore, StoreUnavailable


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    with closing(KeyStore(tmp_path / "state")) as store:
        yield store


def used(store: KeyStore) -> int:
    (key,) = store.all()
    assert 0 <= key.used <= key.budget
    return key.used


def test_Q1_four_processes_spend_exactly_the_budget(store: KeyStore, tmp_path: Path) -> None:
    key, _ = store.create("shared", budget=5000)
    context = multiprocessing.get_context("spawn")
    granted: multiprocessing.Queue[int] = context.Queue()
    processes = [
        context.Process(target=spend, args=(tmp_path / "state", key.id, 2000, granted))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    total = sum(granted.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert total == 5000
    assert used(store) == 5000


def test_Q3_a_batch_beyond_the_budget_is_refused_whole(store: KeyStore) -> None:
    key, _ = store.create("k", budget=10)
    assert store.reserve(key.id, 3)
    assert not store.reserve(key.id, 8)
    assert used(store) == 3
    assert store.reserve(key.id, 7)


class Books(RuleBasedStateMachine):
    """Q9: whatever the order of charges and refunds, 0 <= used <= budget and nothing is lost."""

    @initialize(budget=st.integers(1, 20))
    def open(self, budget: int) -> None:
        self.store = KeyStore(Path(self.folder))
        self.key, _ = self.store.create("k", budget=budget)
        self.used = 0

    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = self._temporary.name

    def teardown(self) -> None:
        self.store.close()
        self._temporary.cleanup()

    @rule(images=st.integers(1, 8))
    def reserve(self, images: int) -> None:
        granted = self.store.reserve(self.key.id, images)
        assert granted == (self.used + images <= self.key.budget)
        self.used += images if granted else 0

    @rule(images=st.integers(1, 8))
    def refund(self, images: int) -> None:
        self.store.refund(self.key.id, images)
        self.used -= images if images <= self.used else 0

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = KeyStore(Path(self.folder))

    @invariant()
    def books_agree(self) -> None:
        assert used(self.store) == self.used


test_Q9_books = Books.TestCase
test_Q9_books.settings = settings(deadline=None, max_examples=15, stateful_step_count=20)


def test_a_key_opens_until_it_is_revoked_in_any_process(store: KeyStore, tmp_path: Path) -> None:
    key, text = store.create("k", budget=1)
    with closing(KeyStore(tmp_path / "state")) as elsewhere:
        assert elsewhere.authenticate(text) == key
        assert store.revoke(key.id)
        assert elsewhere.authenticate(text) is None
        assert not elsewhere.reserve(key.id, 1)
        assert not store.revoke(key.id)


@pytest.mark.parametrize("text", ["", "stingy", "stingy_0_x", "' OR 1=1 --", "ключ", "\udc80"])
def test_A6_anything_else_is_no_key(store: KeyStore, text: str) -> None:
    store.create("k", budget=1)
    assert store.authenticate(text) is None


def test_A4_the_key_is_nowhere_on_disk(store: KeyStore, tmp_path: Path) -> None:
    key, text = store.create("k", budget=1)
    secret = text.split("_", 2)[2].encode()
    files = [path for path in (tmp_path / "state").iterdir() if path.is_file()]
    assert files
    assert not any(secret in path.read_bytes() for path in files)
    assert (tmp_path / "state" / "pepper").stat().st_mode & 0o777 == 0o600
    assert secret.decode() not in repr(key)


def test_A3_a_locked_store_refuses(store: KeyStore, tmp_path: Path) -> None:
    key, text = store.create("k", budget=5)
    path = tmp_path / "state" / "keys.sqlite3"
    with (
        closing(KeyStore(tmp_path / "state", lock_timeout_s=0.05)) as impatient,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable):
            impatient.reserve(key.id, 1)
        other.execute("ROLLBACK")
        assert impatient.reserve(key.id, 1)
        assert impatient.authenticate(text) is not None


def test_Q5_a_broken_or_unwritable_store_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreUnavailable):
        KeyStore(tmp_path / "file")
    state = tmp_path / "state"
    KeyStore(state).close()
    (state / "keys.sqlite3").write_bytes(b"this is not a database, and never was one" * 100)
    with pytest.raises(StoreUnavailable):
        KeyStore(state)
