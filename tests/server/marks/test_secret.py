"""The secret of the marks: its file, its uses, and the state that knows it."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from marking import OTHER_SECRET, SECRET, marked_settings, write_secret
from serving import make_bundle, make_settings
from stingy_server import ConfigurationError, Database, create_app
from stingy_server.marks.mark_store import EPOCH as FIRST_DAY
from stingy_server.marks.mark_store import MarkStore, forget
from stingy_server.marks.secret import read_mark_secret
from stingy_server.settings import WatchSettings
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.ledger import Ledger


def fault(path: Path, state: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_mark_secret(path, state=state)
    (found,) = caught.value.faults
    return found


def test_secret_is_read_without_white_space(tmp_path: Path) -> None:
    path = write_secret(tmp_path / "secret", value=b"x" * 32 + b"\n")
    assert read_mark_secret(path, state=tmp_path / "state").value == b"x" * 32


def test_Y5_secret_of_the_wrong_place_mode_or_size_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    assert "outside of the state folder" in fault(write_secret(state / "secret"), state)
    link = tmp_path / "link"
    link.symlink_to(state / "secret")
    assert "outside of the state folder" in fault(link, state)
    for mode in (0o640, 0o604, 0o666):
        assert f"got {mode:04o}" in fault(write_secret(tmp_path / "m", mode=mode), state)
    assert "got 31" in fault(write_secret(tmp_path / "short", value=b"x" * 31), state)
    assert "4096 bytes" in fault(write_secret(tmp_path / "long", value=b"x" * 4097), state)
    assert "readable" in fault(tmp_path / "missing", state)
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "regular" in fault(tmp_path / "pipe", state)


def test_uses_of_a_secret_are_separate() -> None:
    derived = {
        SECRET.derive("a", b"b", b"c"),
        SECRET.derive("a", b"bc"),
        SECRET.derive("a", b"bc", b""),
        SECRET.derive("ab", b"c"),
        OTHER_SECRET.derive("a", b"bc"),
        SECRET.commitment,
        OTHER_SECRET.commitment,
    }
    assert len(derived) == 7
    assert SECRET.value.hex() not in repr(SECRET)


def test_Y5_state_refuses_another_secret(tmp_path: Path, store: str | None) -> None:
    with closing(Database(tmp_path / "state", store=store)) as database:
        for _ in range(2):
            MarkStore(database, SECRET).adopt()
        with pytest.raises(StoreUnavailable, match="expected the secret"):
            MarkStore(database, OTHER_SECRET).adopt()
        (entry,) = [entry for _, entry in Ledger(database).entries()]
        assert (entry.event, SECRET.commitment.hex() in (entry.detail or "")) == (
            "marks_secret",
            True,
        )
        # Once nothing is kept under it, another secret may follow.
        forget(database, before=FIRST_DAY, detail={})
        MarkStore(database, OTHER_SECRET).adopt()


def test_Y5_start_with_another_secret_is_refused(tmp_path: Path) -> None:
    settings = marked_settings(tmp_path)
    create_app(settings).state.service.close()
    write_secret(tmp_path / "marks.secret", value=b"y" * 32)
    with pytest.raises(ConfigurationError) as caught:
        create_app(settings)
    assert "expected the secret that the state was first used with" in str(caught.value)


def test_mark_without_a_secret_is_a_fault(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path / "s", make_bundle(tmp_path / "b"), watch=WatchSettings(then=("mark", "refuse"))
    )
    with pytest.raises(ConfigurationError, match="marks: expected a secret_file"):
        create_app(settings)
    assert not (tmp_path / "s").exists()
