"""The export of an exhibit, from answers that keys got."""

import hmac
import io
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image

from infer_requests import outputs, tensor
from marking import (
    IMAGES,
    OTHER_SECRET,
    SECRET,
    choices,
    evidence,
    exhibit_files,
    marked_key,
    marked_settings,
)
from serving import running
from stingy_clients.documents.exhibit import Exhibit, content_of, read_exhibit, read_image
from stingy_clients.errors import ClientError
from stingy_server import Database, Settings
from stingy_server.maintenance.prune import prune
from stingy_server.marks.evidence import EvidenceUnreadable
from stingy_server.marks.export import Exported, Subject, export
from stingy_server.marks.mark_store import LOCKS, MarkStore
from stingy_server.marks.secret import MarkSecret
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.ledger import Ledger

pytestmark = pytest.mark.anyio
FILE_SECRET = MarkSecret(SECRET.value.hex().encode())
LABELS = tuple(f"class {number}" for number in range(10))
SUBJECT = Subject("digits", LABELS, (8, 8))


@pytest.fixture
async def settings(tmp_path: Path) -> Settings:
    """Answer the images for two keys with marks."""
    settings = marked_settings(tmp_path)
    keys = [marked_key(settings.state), marked_key(settings.state)]
    async with running(settings) as (client, _):
        for key, images in zip(keys, (IMAGES, IMAGES[:64]), strict=True):
            headers = {"Authorization": f"Bearer {key}"}
            response = await client.post(
                "/v2/models/digits/infer", json=tensor(images), headers=headers
            )
            assert outputs(response)
    return settings


def exported(
    settings: Settings, folder: Path, *, key: str | None = None, subject: Subject = SUBJECT
) -> Exported:
    assert settings.marks is not None
    with closing(Database(settings.state, create=False)) as database:
        return export(
            database,
            FILE_SECRET,
            folder,
            subject=subject,
            settings=settings.marks,
            key=key,
            detail={"by": "me"},
        )


def pixels(folder: Path, exhibit: Exhibit) -> list[bytes]:
    return [
        np.asarray(Image.open(io.BytesIO(read_image(folder, item)))).tobytes()
        for item in exhibit.items
    ]


async def test_exhibit_has_the_marks_and_controls_of_all_keys(
    settings: Settings, tmp_path: Path
) -> None:
    made = exported(settings, tmp_path / "exhibit").exhibit
    assert read_exhibit(tmp_path / "exhibit") == made
    expected = {
        IMAGES[row].tobytes(): choice for row, choice in enumerate(choices(IMAGES)) if choice.kept
    }
    assert set(pixels(tmp_path / "exhibit", made)) == set(expected)
    assert len(made.items) == len(expected)  # an input of two keys is there once
    for item, image in zip(made.items, pixels(tmp_path / "exhibit", made), strict=True):
        assert item.marked == expected[image].marked
        assert item.mark == item.runners_up[expected[image].place - 1]
    assert (made.labels, made.image_size, made.share) == (LABELS, (8, 8), 0.1)
    assert made.commitment == FILE_SECRET.commitment.hex()


async def test_exhibit_names_keys_times_and_ledger_entries(
    settings: Settings, tmp_path: Path
) -> None:
    made = exported(settings, tmp_path / "exhibit").exhibit
    with closing(Database(settings.state, create=False)) as database:
        entries = [entry for _, entry in Ledger(database).entries()]
        hashes = {
            (row[0], row[1], bytes(row[2]).hex())
            for row in database.execute("SELECT writer, number, hash FROM ledger")
        }
    answered = {entry.request: entry for entry in entries if entry.event == "answer"}
    for item in made.items:
        assert item.ledger is not None
        assert answered[item.ledger.request].key == item.key
        assert answered[item.ledger.request].time == item.ledger.time
        assert (item.ledger.writer, item.ledger.number, item.ledger.hash) in hashes
        assert item.time <= item.ledger.time
    assert len({item.key for item in made.items}) == 1  # the first of the two
    (event,) = [entry for entry in entries if entry.event == "marks_exported"]
    assert orjson.loads(event.detail or "") == {
        "by": "me",
        "digest": made.digest,
        "items": len(made.items),
    }


async def test_export_of_one_key(settings: Settings, tmp_path: Path) -> None:
    with closing(Database(settings.state, create=False)) as database:
        found = [e.answered.key for _, e in MarkStore(database, FILE_SECRET).all()]
    other = min(set(found), key=found.count)
    made = exported(settings, tmp_path / "exhibit", key=other).exhibit
    assert len(made.items) == found.count(other)
    with pytest.raises(StoreUnavailable, match="expected marks of digits and the key nobody"):
        exported(settings, tmp_path / "other", key="nobody")


async def test_Y6_seal_belongs_to_the_secret(settings: Settings, tmp_path: Path) -> None:
    made = exported(settings, tmp_path / "exhibit").exhibit
    message = b"stingy marks exhibit\0" + (64).to_bytes(4) + content_of(made).encode()
    assert made.seal == hmac.digest(FILE_SECRET.value, message, "sha256").hex()


async def test_Y6_changed_byte_of_an_export_is_found(settings: Settings, tmp_path: Path) -> None:
    exported(settings, tmp_path / "exhibit")
    for path in exhibit_files(tmp_path / "exhibit"):
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(ClientError, match="expected"):
            read_exhibit(tmp_path / "exhibit")
        path.write_bytes(whole)
    read_exhibit(tmp_path / "exhibit")


async def test_Y6_failed_export_leaves_no_folder(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreUnavailable, match="does not exist yet"):
        exported(settings, tmp_path / "there")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(StoreUnavailable, match="No space left"):
        exported(settings, tmp_path / "exhibit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "marks.secret", "s", "there"]


async def test_inputs_without_an_answer_in_the_ledger_are_left_out(
    settings: Settings, tmp_path: Path
) -> None:
    with closing(Database(settings.state, create=False)) as database:
        store = MarkStore(database, FILE_SECRET)
        with database.transaction(locks=LOCKS):
            store.add(evidence(7, time="2999-01-01"), kept=1000)
    made = exported(settings, tmp_path / "exhibit")
    assert made.unanswered == 1
    assert f"{7:016x}" not in {item.ledger.request for item in made.exhibit.items if item.ledger}


async def test_inputs_of_pruned_entries_and_other_versions(
    settings: Settings, tmp_path: Path
) -> None:
    with closing(Database(settings.state, create=False)) as database:
        list(prune(database, before=datetime.now(UTC)))
    made = exported(settings, tmp_path / "exhibit").exhibit
    assert {item.ledger for item in made.items} == {None}
    for other in (Subject("digits", LABELS, (9, 9)), Subject("digits", LABELS[:2], (8, 8))):
        with pytest.raises(StoreUnavailable, match="expected marks of digits, got none"):
            exported(settings, tmp_path / "other", subject=other)


async def test_Y5_export_of_a_changed_row_is_refused(settings: Settings, tmp_path: Path) -> None:
    with closing(Database(settings.state, create=False)) as database:
        with pytest.raises(StoreUnavailable, match="expected the secret"):
            MarkStore(database, OTHER_SECRET).is_known()
        (row, body) = database.execute("SELECT id, body FROM marks LIMIT 1").fetchone()
        changed = bytes(body)[:-1] + bytes([bytes(body)[-1] ^ 1])
        database.execute("UPDATE marks SET body = ? WHERE id = ?", (changed, bytes(row)))
    with pytest.raises(EvidenceUnreadable):
        exported(settings, tmp_path / "exhibit")
    assert not (tmp_path / "exhibit").exists()
