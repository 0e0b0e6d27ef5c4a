"""The export of an exhibit: the marked inputs and the controls of one model, as a folder.

Invariant: the folder is there whole or not at all. No two items have the same coarse pixels.
"""

import contextlib
import hashlib
import io
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from stingy_clients.documents.exhibit import (
    DOCUMENT,
    IMAGES,
    Exhibit,
    Item,
    LedgerReference,
    content_of,
    digest_of,
    document_of,
)
from stingy_server.codec.images import Pixels
from stingy_server.marks.evidence import Answered
from stingy_server.marks.mark_store import MarkStore
from stingy_server.marks.secret import MarkSecret
from stingy_server.settings import MarkSettings
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import Database
from stingy_server.times import stamp

UNSIGNED = "0" * 64  # in the place of a digest that is not computed yet
PAGE = 1000  # entries of the ledger that are read at once
ANSWERS = """
SELECT seq, request, key, time, writer, number, hash FROM ledger
WHERE event = 'answer' AND seq > ? ORDER BY seq LIMIT ?
"""


@dataclass(frozen=True)
class Subject:
    """The model of an exhibit: its name, its labels, and [height, width] of its inputs."""

    model: str
    labels: tuple[str, ...]
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        exhibit: the document.
        other_inputs: inputs that were left out because another version of the model took them.
        unanswered: inputs that were left out because the ledger has no answer to their request.
    """

    exhibit: Exhibit
    other_inputs: int
    unanswered: int


def export(
    database: Database,
    secret: MarkSecret,
    folder: Path,
    *,
    subject: Subject,
    settings: MarkSettings,
    key: str | None,
    detail: Mapping[str, str],
) -> Exported:
    """Write the exhibit of a model to a new folder, and its digest to the ledger.

    Of several keys with the same input, the first is named.

    Args:
        folder: a folder that does not exist yet.
        key: the id of the key whose inputs are exported; None for all keys.
        detail: what the ledger says about the export, such as who does it.

    Raises:
        StoreUnavailable: the state has no such marks or another secret, or the folder cannot be
            written. There is no new folder then.
        EvidenceUnreadable: a row was changed.
    """
    store = MarkStore(database, secret)
    rows, others = _choose(store, subject, key)
    references, oldest = _read_ledger(database, {(a.request, a.key) for a in rows.values()})
    found = len(rows)
    rows = {
        row: answered
        for row, answered in rows.items()
        if (answered.request, answered.key) in references or answered.time < oldest
    }
    if not rows:
        of = subject.model if key is None else f"{subject.model} and the key {key}"
        raise StoreUnavailable(f"expected marks of {of}, got none: nothing was exported")
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        if folder.exists():
            raise StoreUnavailable(f"expected a folder that does not exist yet, got {folder}")
        (draft / IMAGES).mkdir(parents=True, mode=0o700)
        items = []
        for row, answered in sorted(rows.items()):
            png = _png(store.get(row).pixels)
            reference = references.get((answered.request, answered.key))
            items.append(_item(row, answered, png, reference))
            (draft / items[-1].file).write_bytes(png)
        exhibit = _sign(_document(items, subject, settings, secret), secret)
        (draft / DOCUMENT).write_bytes(document_of(exhibit))
        named = {**detail, "digest": exhibit.digest, "items": len(items)}
        store.record("marks_exported", named)
        draft.rename(folder)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StoreUnavailable(f"cannot write an exhibit to {folder}: {reason}") from None
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(draft, ignore_errors=True)
    return Exported(exhibit, others, found - len(rows))


def _choose(
    store: MarkStore, subject: Subject, key: str | None
) -> tuple[dict[bytes, Answered], int]:
    """Return the rows of a subject, the first of each input, and the number of other inputs."""
    chosen: dict[str, tuple[bytes, Answered]] = {}
    others = 0
    for row, evidence in store.all():
        answered = evidence.answered
        if answered.model != subject.model or key not in (None, answered.key):
            continue
        classes = (answered.top1, *answered.runners_up, *answered.answer)
        if evidence.pixels.shape[:2] != subject.image_size or max(classes) >= len(subject.labels):
            others += 1
            continue
        known = chosen.get(answered.coarse)
        if known is None or answered.time < known[1].time:
            chosen[answered.coarse] = row, answered
    return dict(chosen.values()), others


def _read_ledger(
    database: Database, wanted: set[tuple[str, str]]
) -> tuple[dict[tuple[str, str], LedgerReference], str]:
    """Return the wanted entries of the ledger, by request and key, and the time of its first entry.

    Args:
        wanted: the requests with their keys.
    """
    found: dict[tuple[str, str], LedgerReference] = {}
    (oldest,) = database.execute("SELECT MIN(time) FROM ledger WHERE event != 'pruned'").fetchone()
    after = 0
    while True:
        rows = database.execute(ANSWERS, (after, PAGE)).fetchall()
        for seq, request, key, time, writer, number, hashed in rows:
            after = seq
            if (request, key) in wanted:
                found[request, key] = LedgerReference(
                    request=request,
                    time=time,
                    writer=writer,
                    number=number,
                    hash=None if hashed is None else bytes(hashed).hex(),
                )
        if len(rows) < PAGE:
            return found, oldest or stamp()


def _item(row: bytes, answered: Answered, png: bytes, reference: LedgerReference | None) -> Item:
    return Item(
        id=row.hex(),
        sha256=hashlib.sha256(png).hexdigest(),
        marked=answered.marked,
        top1=answered.top1,
        runners_up=answered.runners_up,
        mark=answered.mark,
        answer=answered.answer,
        scores=answered.scores,
        key=answered.key,
        version=answered.version,
        time=answered.time,
        ledger=reference,
    )


def _document(
    items: list[Item], subject: Subject, settings: MarkSettings, secret: MarkSecret
) -> Exhibit:
    return Exhibit(
        model=subject.model,
        labels=subject.labels,
        image_size=subject.image_size,
        share=settings.share,
        most_runners_up=max(settings.runners_up, *(len(item.runners_up) for item in items)),
        commitment=secret.commitment.hex(),
        created=stamp(),
        items=tuple(items),
        seal=UNSIGNED,
        digest=UNSIGNED,
    )


def _sign(exhibit: Exhibit, secret: MarkSecret) -> Exhibit:
    seal = secret.derive("exhibit", content_of(exhibit).encode()).hex()
    sealed = exhibit.model_copy(update={"seal": seal})
    return sealed.model_copy(update={"digest": digest_of(sealed)})


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
