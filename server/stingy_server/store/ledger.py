"""The ledger: an append-only record of prediction requests with a key, and of server events.

An entry is one request, or the refusals that `refusal_tally` has counted together. The ledger
holds no output, pixel or key. A request whose record cannot be written gets no answer.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson

from stingy_server.codec.images import Pixels
from stingy_server.store.database import Database


# A NamedTuple, because a frozen dataclass costs two microseconds more and every request has one.
class Entry(NamedTuple):
    """A request, a number of equal refusals, or an event of the server.

    Attributes:
        request: the id of the request, of the first one if there are several.
        pixels: keyed digest of the decoded images, in hex. Equal pixels have equal digests.
        images: images in the request.
        answered: images answered.
        bits: leak bits of the answered images, summed.
        event: "answer", the code of a refusal, "cancelled", or an event of the server: "start",
            "stop", "load", "unload", "share", "alarm", "alarm_labels", "alarm_refuse", "budget_80",
            "budget_95"; or of an operator: "released", "key_created", "key_set", "key_rotated",
            "key_revoked".
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


PAGE = 1000  # entries read at once, because all of them may not fit in memory
COLUMNS = ", ".join(Entry._fields)
ROW = f"({', '.join('?' * len(Entry._fields))})"
MOST_ROWS = 64  # of one statement, so that few different statements are prepared


@cache
def _insert(rows: int) -> str:
    # The columns are the fields of the class above. The statement has no text of a request.
    return f"INSERT INTO ledger ({COLUMNS}) VALUES {', '.join([ROW] * rows)}"  # noqa: S608


def event_entry(
    time: str,
    event: str,
    *,
    key: str | None,
    model: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> Entry:
    """Return the entry of an event that concerns a key or a model and no request."""
    none = "-"
    return Entry(
        time=time,
        request=none,
        key=key or none,
        model=model or none,
        version=none,
        fingerprint=none,
        pixels=None,
        images=0,
        answered=0,
        bits=0.0,
        status=0,
        event=event,
        latency_us=0,
        detail=None if detail is None else orjson.dumps(detail).decode(),
    )


class Ledger:
    """The ledger in a database.

    Raises:
        StoreUnavailable: from every method.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, entry: Entry) -> None:
        self._database.execute(_insert(1), entry)

    def append_all(self, entries: Sequence[Entry]) -> list[None]:
        """Append entries inside the open transaction. Return None for each."""
        for start in range(0, len(entries), MOST_ROWS):
            part = entries[start : start + MOST_ROWS]
            self._database.execute(_insert(len(part)), tuple(chain.from_iterable(part)))
        return [None] * len(entries)

    def entries(self, *, after: int = 0) -> Iterator[tuple[int, Entry]]:
        """Yield the entries whose numbers are above `after`, with their numbers, oldest first.

        In PostgreSQL an entry that is still being written may get a lower number than an entry that
        was already read.
        """
        while True:
            rows = self._database.execute(
                f"SELECT seq, {COLUMNS} FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608
                (after, PAGE),
            ).fetchall()
            for seq, *values in rows:
                yield seq, Entry(*values)
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    def last(self, count: int) -> int:
        """Return the number that precedes the last `count` entries."""
        (latest,) = self._database.execute("SELECT MAX(seq) FROM ledger").fetchone()
        return max(0, (latest or 0) - count)

    def digest(self, images: Pixels) -> str:
        """Return the keyed digest of pixels: it shows equal requests, but not their images."""
        pixels = np.ascontiguousarray(images)  # no copy: 256 images of 224 x 224 are 38 MB
        pepper = self._database.pepper
        return hashlib.blake2b(pixels.data, digest_size=16, key=pepper).hexdigest()
