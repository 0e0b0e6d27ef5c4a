"""The exhibit's folder: read whole, or not at all."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stingy_clients.documents.exhibit import (
    DOCUMENT,
    IMAGES,
    Exhibit,
    Item,
    digest_of,
    document_of,
    read_exhibit,
    read_image,
)
from stingy_clients.errors import ClientError


def item(number: int = 0, *, png: bytes = b"png", **fields: Any) -> Item:
    return Item(
        **{
            "id": f"{number:032x}",
            "sha256": hashlib.sha256(png).hexdigest(),
            "marked": True,
            "top1": 1,
            "runners_up": (2, 3, 0),
            "mark": 3,
            "answer": (3, 1),
            "scores": (-0.125, -2.5),
            "key": "k",
            "version": "1",
            "time": "2026-01-02",
            "ledger": None,
            **fields,
        }
    )


def exhibit(*items: Item, **fields: Any) -> Exhibit:
    made = Exhibit(
        **{
            "model": "digits",
            "labels": tuple("abcdefghij"),
            "image_size": (8, 8),
            "share": 0.005,
            "most_runners_up": 3,
            "commitment": "c" * 64,
            "created": "2026-01-03",
            "items": items,
            "digest": "0" * 64,
            "seal": "0" * 64,
            **fields,
        }
    )
    return made.model_copy(update={"digest": digest_of(made)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / IMAGES).mkdir()
    items = [
        item(1, png=b"one"),
        item(2, png=b"two", marked=False, answer=(1,), scores=None, mark=2),
    ]
    made = exhibit(*items)
    (tmp_path / DOCUMENT).write_bytes(document_of(made))
    for each, png in zip(items, (b"one", b"two"), strict=True):
        (tmp_path / each.file).write_bytes(png)
    return tmp_path


def test_exhibit_is_read_as_it_was_written(folder: Path) -> None:
    found = read_exhibit(folder)
    assert document_of(found) == (folder / DOCUMENT).read_bytes()
    assert [each.id[-1] for each in found.marked] == ["1"]
    assert [each.id[-1] for each in found.controls] == ["2"]
    assert read_image(folder, found.items[0]) == b"one"


def test_Y6_any_changed_byte_is_found(folder: Path) -> None:
    for path in [folder / DOCUMENT, *(folder / IMAGES).iterdir()]:
        whole = path.read_bytes()
        for place in range(0, len(whole), 3):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ClientError, match="expected"):
                read_exhibit(folder)
        for changed in (whole + b" ", whole[:-1], b""):
            path.write_bytes(changed)
            with pytest.raises(ClientError, match="expected"):
                read_exhibit(folder)
        path.write_bytes(whole)
    read_exhibit(folder)


def test_Y6_missing_file_is_named(folder: Path) -> None:
    name = f"{IMAGES}/{2:032x}.png"
    (folder / name).unlink()
    with pytest.raises(ClientError, match=name):
        read_exhibit(folder)
    with pytest.raises(ClientError, match=DOCUMENT):
        read_exhibit(folder / "elsewhere")


def test_other_document_is_no_exhibit(folder: Path) -> None:
    (folder / DOCUMENT).write_text(json.dumps({"format": "stingy exhibit 2"}), "utf-8")
    with pytest.raises(ClientError, match="expected an exhibit, got a fault in format"):
        read_exhibit(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"mark": 5},
        {"runners_up": (2, 2, 3)},
        {"runners_up": (1, 3)},
        {"runners_up": ()},
        {"answer": (1, 3)},
        {"marked": False},
        {"scores": (1.0,)},
        {"id": "../../etc/passwd"},
        {"answer": ()},
        {"top1": -1},
    ],
)
def test_item_that_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        item(**fields)


@pytest.mark.parametrize(
    ("items", "fields"),
    [
        ([item(2), item(1)], {}),
        ([item(1), item(1)], {}),
        ([item(1)], {"labels": ("a", "b", "c")}),
        ([item(1)], {"most_runners_up": 2}),
    ],
)
def test_exhibit_that_contradicts_itself_is_refused(
    items: list[Item], fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        exhibit(*items, **fields)
