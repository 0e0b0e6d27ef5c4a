"""The ledger: an append-only record of prediction requests with a key, and of server events.

An entry is one request, or the refusals that `refusal_tally` has counted together. The ledger
holds no output, pixel or key. A request whose record cannot be written gets no answer.

Each process that writes has a chain. An entry has its number in the chain, and the SHA-256 hash of
the hash before it and of its own content. The last hash of a chain is its head. An entry and the
head that it makes are in one transaction, so a chain advances only with its commit.
"""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from hashlib import blake2b, sha256
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from orjson import dumps

from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import Database

if TYPE_CHECKING:  # it imports torch, which takes seconds, and commands read the ledger
    from stingy_server.codec.images import Pixels


# A NamedTuple, because a frozen dataclass costs two microseconds more and every request has one.
class Entry(NamedTuple):
    """A request, a number of equal refusals, or an event of the server.

    Attributes:
        request: the id of the request, of the first one if there are several.
        pixels: keyed digest of the decoded images, in hex. Equal pixels have equal digests.
        images: images in the request.
        answered: images answered.
        bits: leak bits of the answered images, summed. A float, because the chain has its text.
        event: "answer", the code of a refusal, "cancelled", or an event of the server: "start",
            "stop", "load", "unload", "share", "alarm", "alarm_mark", "alarm_labels",
            "alarm_refuse", "marks_secret", "marked", "budget_80", "budget_95"; or of an operator:
            "pruned", "released", "marks_exported", "marks_forgotten", "key_created", "key_set",
            "key_rotated", "key_revoked".
        requests: the requests of this entry. Their images and microseconds are summed.
        detail: JSON with more about an event, or None.
    """

    time: str
    request: str
    key: str
    model: str
    version: str
    fingerprint: str
    pixels: str | None
    images: int
    answered: int
    bits: float
    status: int
    event: str
    latency_us: int
    requests: int = 1
    detail: str | None = None


class Head(NamedTuple):
    """The last entry of a chain.

    Attributes:
        writer: the id of the process that wrote the chain.
        number: the entries of the chain, pruned ones included.
        hash: the hash of the last of them.
    """

    writer: str
    number: int
    hash: bytes

    def fields(self) -> dict[str, Any]:
        """Return the fields for JSON, with the hash in hex."""
        return {"writer": self.writer, "number": self.number, "hash": self.hash.hex()}


NO_VALUE = "-"  # in place of what an entry does not have
PRUNED = "pruned"  # the event of an entry that stands for deleted ones
NO_HASH = bytes(32)  # before the first entry of a chain
PAGE = 1000  # entries read at once, because all of them may not fit in memory
COLUMNS = ", ".join(Entry._fields)
CHAINED = (*Entry._fields, *Head._fields)
ROW = f"({', '.join('?' * len(CHAINED))})"
MOST_ROWS = 64  # of one statement, so that few different statements are prepared

ADVANCE = "UPDATE ledger_heads SET number = ?, hash = ? WHERE writer = ? AND hash = ?"
FIND = "SELECT writer, number, hash FROM ledger_heads WHERE writer = ? /* FOR UPDATE */"
BEGIN = (
    "INSERT INTO ledger_heads (writer, number, hash) VALUES (?, ?, ?) "
    "ON CONFLICT (writer) DO NOTHING"
)


@cache
def _insert(rows: int) -> str:
    # The columns are the fields of the classes above. The statement has no text of a request.
    columns = ", ".join(CHAINED)
    return f"INSERT INTO ledger ({columns}) VALUES {', '.join([ROW] * rows)}"  # noqa: S608


@cache
def _writer(process: int) -> str:
    """Return the id of a process as a writer. A forked process gets another."""
    return secrets.token_hex(6)


def link(writer: str, number: int, before: bytes, entry: Sequence[Any]) -> bytes:
    """Return the hash of an entry: SHA-256 of the hash before it, and of its content as JSON.

    The JSON is an array of the writer, the number, and the fields of the entry in their order,
    without spaces, in UTF-8. A column that a later version adds must be left out where it is empty,
    so that earlier entries keep their hashes.
    """
    return sha256(before + dumps((writer, number, *entry))).digest()


def event_entry(
    time: str,
    event: str,
    *,
    key: str | None,
    model: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> Entry:
    """Return the entry of an event that concerns a key or a model and no request."""
    return Entry(
        time=time,
        request=NO_VALUE,
        key=key or NO_VALUE,
        model=model or NO_VALUE,
        version=NO_VALUE,
        fingerprint=NO_VALUE,
        pixels=None,
        images=0,
        answered=0,
        bits=0.0,
        status=0,
        event=event,
        latency_us=0,
        detail=None if detail is None else dumps(detail).decode(),
    )


class Ledger:
    """The ledger in a database.

    Raises:
        StoreUnavailable: from every method.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # The head of this process's chain, as this object last advanced it. That transaction may
        # have failed, and another thread may have advanced the chain. The store knows.
        self._head = Head("", 0, NO_HASH)

    def append(self, *entries: Entry) -> None:
        """Append entries in a transaction of their own."""
        with self._database.transaction():
            self.append_all(entries)

    def append_all(self, entries: Sequence[Entry]) -> list[None]:
        """Append entries inside the open transaction. Return None for each."""
        for start in range(0, len(entries), MOST_ROWS):
            part = entries[start : start + MOST_ROWS]
            links = self._advance(part)
            rows = (entry + its for entry, its in zip(part, links, strict=True))
            self._database.execute(_insert(len(part)), tuple(chain.from_iterable(rows)))
        return [None] * len(entries)

    def _advance(self, entries: Sequence[Entry]) -> list[tuple[str, int, bytes]]:
        """Advance this process's chain by entries. Return the writer, number and hash of each."""
        links = _links(self._head, entries)
        if self._replace_head(links[-1]):
            return links
        self._head = self._stored_head()
        links = _links(self._head, entries)
        if not self._replace_head(links[-1]):
            raise StoreUnavailable("the store failed: the head of the ledger's chain is not there")
        return links

    def _replace_head(self, last: tuple[str, int, bytes]) -> bool:
        """Store the new head. Return False if the stored one is not that of `_head`."""
        writer, number, hashed = last
        advanced = self._database.execute(ADVANCE, (number, hashed, writer, self._head.hash))
        if advanced.rowcount != 1:
            return False
        self._head = Head(writer, number, hashed)
        return True

    def _stored_head(self) -> Head:
        """Return the head of this process's chain, locked until the transaction ends."""
        writer = _writer(os.getpid())
        self._database.execute(BEGIN, (writer, 0, NO_HASH))
        return Head(*self._database.execute(FIND, (writer,)).fetchone())

    def heads(self) -> list[Head]:
        """Return the heads of all chains, in the order of their writers."""
        rows = self._database.execute(
            "SELECT writer, number, hash FROM ledger_heads ORDER BY writer"
        )
        return [Head(*row) for row in rows]

    def entries(self, *, after: int = 0, key: str | None = None) -> Iterator[tuple[int, Entry]]:
        """Yield the entries whose numbers are above `after`, with their numbers, oldest first.

        In PostgreSQL an entry that is still being written may get a lower number than an entry that
        was already read.

        Args:
            after: the number before the first entry.
            key: the id of the only key whose entries are wanted; None for all.
        """
        where, keys = ("", ()) if key is None else (" AND key = ?", (key,))
        while True:
            rows = self._database.execute(
                f"SELECT seq, {COLUMNS} FROM ledger WHERE seq > ?{where} ORDER BY seq LIMIT ?",  # noqa: S608
                (after, *keys, PAGE),
            ).fetchall()
            for seq, *values in rows:
                yield seq, Entry(*values)
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    def last(self, count: int, *, key: str | None = None) -> int:
        """Return the number that precedes the last `count` entries, of one key or of all."""
        (latest,) = self._database.execute("SELECT MAX(seq) FROM ledger").fetchone()
        if key is None:
            return max(0, (latest or 0) - count)
        (first,) = self._database.execute(
            "SELECT MIN(seq) FROM "
            "(SELECT seq FROM ledger WHERE key = ? ORDER BY seq DESC LIMIT ?) AS latest",
            (key, count),
        ).fetchone()
        return int(first) - 1 if first is not None else latest or 0

    def digest(self, images: "Pixels") -> str:
        """Return the keyed digest of pixels: it shows equal requests, but not their images."""
        pixels = np.ascontiguousarray(images)  # no copy: 256 images of 224 x 224 are 38 MB
        pepper = self._database.pepper
        return blake2b(pixels.data, digest_size=16, key=pepper).hexdigest()


def _links(head: Head, entries: Sequence[Entry]) -> list[tuple[str, int, bytes]]:
    """Continue a chain. Return the writer, the number and the hash of each entry."""
    writer, before, hashed = head
    links = []
    for number, entry in enumerate(entries, before + 1):
        # As `link` does, without its call, because every request has an entry.
        hashed = sha256(hashed + dumps((writer, number, *entry))).digest()
        links.append((writer, number, hashed))
    return links
