"""States that cannot be shown: gone, replaced, empty, broken, of another pepper."""

import shutil
from pathlib import Path

import pytest

from console_pages import add_entries, entry, make_state, opened
from stingy_server.console import feed
from stingy_server.console.state_view import StateGone, StateView
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import FILE


@pytest.mark.anyio
async def test_state_that_vanishes_leaves_the_last_numbers(tmp_path: Path) -> None:
    state = tmp_path / "state"
    ((key, _),) = make_state(state, "alice")
    async with opened(state) as page:
        assert (await page.document())["fault"] is None
        state.rename(tmp_path / "moved")
        gone = await page.document(key=key.id)
        assert (gone["fault"], gone["detail"]) == (feed.GONE, None)
        assert [row["name"] for row in gone["keys"]] == ["alice"]
        assert gone["read_at"] < gone["now"]
        (tmp_path / "moved").rename(state)
        assert (await page.document())["fault"] is None


@pytest.mark.anyio
async def test_state_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    state, other = tmp_path / "state", tmp_path / "other"
    make_state(state, "alice")
    make_state(other, "bob", "carol")
    shutil.copy(state / "pepper", tmp_path / "pepper")
    async with opened(state) as page:
        assert len((await page.document())["keys"]) == 1
        shutil.rmtree(state)
        shutil.copytree(other, state)
        assert [row["name"] for row in (await page.document())["keys"]] == ["bob", "carol"]


@pytest.mark.anyio
async def test_state_that_breaks_is_a_fault_without_its_path(tmp_path: Path) -> None:
    make_state(tmp_path / "state", "alice")
    async with opened(tmp_path / "state") as page:
        await page.document()
        (tmp_path / "state" / FILE).unlink()
        (tmp_path / "state" / FILE).write_bytes(b"no database" * 1000)
        found = await page.document()
        assert found["fault"] == feed.UNREADABLE
        assert str(tmp_path) not in str(found)


@pytest.mark.anyio
async def test_row_that_no_release_wrote_is_a_fault(tmp_path: Path) -> None:
    ((key, _),) = make_state(tmp_path, "alice")
    async with opened(tmp_path) as page:
        await page.document()
        add_entries(tmp_path, [entry(key.id)._replace(time="yesterday")])
        found = await page.document()
    assert found["fault"] == feed.UNREADABLE
    assert [row["name"] for row in found["keys"]] == ["alice"]


def test_folder_without_a_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateGone, match=r"expected a state folder at .*, got none"):
        StateView(tmp_path, None).database()


def test_empty_file_is_refused(tmp_path: Path) -> None:
    make_state(tmp_path / "state")
    (tmp_path / "state" / FILE).unlink()
    (tmp_path / "state" / FILE).touch()
    with pytest.raises(StoreUnavailable, match="got an empty one: create a key"):
        StateView(tmp_path / "state", None).database()
    assert (tmp_path / "state" / FILE).stat().st_size == 0


def test_state_of_another_pepper_is_refused(tmp_path: Path) -> None:
    make_state(tmp_path)
    (tmp_path / "pepper").write_bytes(bytes(32))
    with pytest.raises(StoreUnavailable, match="expected the pepper"):
        StateView(tmp_path, None).database()
