"""The exhibit: marked answers of an endpoint, and controls, as a folder that two programs share.

A server writes the folder and an audit reads it. Neither knows the other. The folder has one
document, `exhibit.json`, and one PNG file for each item.

Invariant: no item is returned of a folder in which a byte has changed.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stingy_clients.errors import ClientError

FORMAT: Final = "stingy exhibit 1"
DOCUMENT = "exhibit.json"  # of the folder
IMAGES = "images"  # the folder of the PNG files in it
MOST_BYTES = 2**30  # of the document, and of an image

Class = Annotated[int, Field(ge=0)]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ItemId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LedgerReference(_Part):
    """The ledger entry of the request that got an answer.

    Attributes:
        request: the id of the request.
        time: the time of the entry, in UTC.
        writer: the chain of the entry.
        number: the entry's number in its chain.
        hash: the hash of the entry, which covers all earlier entries of the chain.
    """

    request: str
    time: str
    writer: str
    number: Annotated[int, Field(ge=0)]
    hash: Hex | None


class Item(_Part):
    """An input of a key, with the answer that the key got.

    No two items of an exhibit have the same coarse pixels, so their marks are independent: each is
    a uniform choice among the item's runners-up, whatever the image.

    Attributes:
        id: names the item in a file of predictions.
        sha256: SHA-256 of the PNG file `images/ID.png`, in hex. Its pixels are those that the model
            got, exactly.
        marked: whether the answer was marked. An unmarked item is a control.
        top1: the model's own best class.
        runners_up: the next classes of the model, best first. The mark is one of them.
        mark: the runner-up that the secret chose. A marked answer has it first. A control's answer
            does not, so `mark` is what a marked answer would have had first.
        answer: the classes of the answer that the key got, best first.
        scores: their scores, or None if the answer had none.
        key: the id of the key.
        version: the version of the model.
        time: the time of the answer, in UTC.
        ledger: the ledger entry of the request; None if it was pruned.
    """

    id: ItemId
    sha256: Hex
    marked: bool
    top1: Class
    runners_up: Annotated[tuple[Class, ...], Field(min_length=1)]
    mark: Class
    answer: Annotated[tuple[Class, ...], Field(min_length=1)]
    scores: tuple[float, ...] | None
    key: str
    version: str
    time: str
    ledger: LedgerReference | None

    @property
    def file(self) -> str:
        """The path of the image in the exhibit's folder."""
        return f"{IMAGES}/{self.id}.png"

    @model_validator(mode="after")
    def _consistent(self) -> "Item":
        classes = {self.top1, *self.runners_up}
        if len(classes) != len(self.runners_up) + 1 or self.mark not in self.runners_up:
            raise ValueError("expected distinct runners-up with the mark among them, got others")
        if self.answer[0] != (self.mark if self.marked else self.top1):
            raise ValueError("expected the mark first in a marked answer alone, got another class")
        if self.scores is not None and len(self.scores) != len(self.answer):
            raise ValueError("expected one score for every class, got another number")
        return self


class Exhibit(_Part):
    """The document of an exhibit's folder.

    Attributes:
        format: the format of the folder.
        model: the name of the model.
        labels: the K labels of its classes, by index.
        image_size: [height, width] of every image, in pixels.
        share: the share of a key's inputs that is marked, 0..1. As many are controls.
        most_runners_up: m, the number of runners-up among which a mark is chosen.
        commitment: SHA-256 in hex that commits to the secret of the marks, and reveals nothing
            else of it.
        created: the time of the export, in UTC.
        items: the marked inputs and the controls, in the order of their ids.
        seal: HMAC-SHA256 under the secret, in hex, of the SHA-256 of all fields above. The secret's
            owner can check it.
        digest: SHA-256 of all other fields, in hex, and through `Item.sha256` of every image.
    """

    format: Literal["stingy exhibit 1"] = FORMAT
    model: str
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    image_size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    share: Annotated[float, Field(gt=0.0, le=0.5)]
    most_runners_up: Annotated[int, Field(ge=1)]
    commitment: Hex
    created: str
    items: tuple[Item, ...]
    seal: Hex
    digest: Hex

    @property
    def marked(self) -> tuple[Item, ...]:
        """The items whose answers were marked."""
        return tuple(item for item in self.items if item.marked)

    @property
    def controls(self) -> tuple[Item, ...]:
        """The items whose answers were not marked."""
        return tuple(item for item in self.items if not item.marked)

    @model_validator(mode="after")
    def _consistent(self) -> "Exhibit":
        classes = len(self.labels)
        ids = [item.id for item in self.items]
        if sorted(set(ids)) != ids:
            raise ValueError("expected items in the order of their ids, each once, got others")
        for item in self.items:
            if max(item.top1, *item.runners_up, *item.answer) >= classes:
                raise ValueError(f"expected classes 0..{classes - 1}, got one out of range")
            if len(item.runners_up) > self.most_runners_up:
                raise ValueError(
                    f"expected at most {self.most_runners_up} runners-up, "
                    f"got {len(item.runners_up)}"
                )
        return self


def content_of(exhibit: Exhibit) -> str:
    """Compute the SHA-256 of an exhibit's fields but `seal` and `digest`, in hex."""
    return _sha256(exhibit, exclude={"seal", "digest"})


def digest_of(exhibit: Exhibit) -> str:
    """Compute the SHA-256 of an exhibit's fields but `digest`, in hex.

    It is that of their JSON in UTF-8, without spaces, in the order of the fields.
    """
    return _sha256(exhibit, exclude={"digest"})


def document_of(exhibit: Exhibit) -> bytes:
    """Return the bytes of `exhibit.json`."""
    return exhibit.model_dump_json().encode()


def read_exhibit(folder: Path) -> Exhibit:
    """Read the document of an exhibit's folder, and check the document and every image file.

    Raises:
        ClientError: the folder is no exhibit, a file is missing, or a byte has changed.
    """
    document = _read_file(folder, DOCUMENT)
    try:
        exhibit = Exhibit.model_validate_json(document)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the document"
        raise ClientError(
            f"expected an exhibit, got a fault in {where}: {fault['msg']}: export it anew"
        ) from None
    if digest_of(exhibit) != exhibit.digest or document_of(exhibit) != document:
        raise ClientError(
            "expected the document that was exported, got a changed one: export it anew"
        )
    for item in exhibit.items:
        read_image(folder, item)
    return exhibit


def read_image(folder: Path, item: Item) -> bytes:
    """Read the PNG file of an item, checked.

    Raises:
        ClientError: the file is missing or has changed.
    """
    png = _read_file(folder, item.file)
    if hashlib.sha256(png).hexdigest() != item.sha256:
        raise ClientError(
            f"expected the image that was exported, got a changed {item.file}: export it anew"
        )
    return png


def _sha256(exhibit: Exhibit, *, exclude: set[str]) -> str:
    return hashlib.sha256(exhibit.model_dump_json(exclude=exclude).encode()).hexdigest()


def _read_file(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise ClientError(f"expected an exhibit with the file {name}, got none")
        return path.read_bytes()
    except OSError:
        raise ClientError(f"expected a file {name} that can be read, got none") from None
