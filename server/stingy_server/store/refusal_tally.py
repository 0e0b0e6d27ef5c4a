"""Refusals that share an entry of the ledger, so that a spent key cannot fill the disk.

For each key, code, model and version, the first refusal of a second has an entry of its own. The
others of that second share one entry with a count, which is written at the end of the second. They
are lost if the server is killed before.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from stingy_server.store.group_commit import GroupCommit
from stingy_server.store.ledger import Entry, Ledger

log = logging.getLogger("stingy")

WINDOW_S = 1.0
Kind = tuple[str, str, str, str]


class RefusalTally:
    """The refusals of the present second. The second begins with the first of them."""

    def __init__(self, ledger: Ledger, writes: GroupCommit) -> None:
        self._ledger = ledger
        self._writes = writes
        self._entries: dict[Kind, Entry | None] = {}  # None for a kind with only a first refusal
        self._timer: asyncio.TimerHandle | None = None

    def add(self, entry: Entry) -> bool:
        """Count a refusal for the shared entry of its kind.

        Returns False, and counts nothing, if it is the first of its kind in this second.
        """
        kind = _kind(entry)
        if kind in self._entries:
            self._merge(kind, entry)
            return True
        self._entries[kind] = None
        self._start_timer()
        return False

    def write(self) -> None:
        """Write the counted refusals at once, when the server stops.

        Raises:
            StoreUnavailable: they could not be written.
        """
        if self._timer is not None:
            self._timer.cancel()
        self._ledger.append(*self._take())

    def _merge(self, kind: Kind, entry: Entry) -> None:
        counted = self._entries.get(kind)
        self._entries[kind] = entry if counted is None else _sum(counted, entry)

    def _take(self) -> Sequence[Entry]:
        counted = [entry for entry in self._entries.values() if entry is not None]
        self._entries.clear()
        return counted

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WINDOW_S, self._end_second)

    def _end_second(self) -> None:
        self._timer = None
        if entries := self._take():
            written = self._writes.submit(partial(self._ledger.append_all, entries))
            written.add_done_callback(partial(self._restore_if_failed, entries))

    def _restore_if_failed(self, entries: Sequence[Entry], written: "asyncio.Future[None]") -> None:
        if written.cancelled() or (error := written.exception()) is None:
            return
        log.error("cannot write the counted refusals yet: %s", error)
        for entry in entries:
            self._merge(_kind(entry), entry)
        self._start_timer()


def _kind(entry: Entry) -> Kind:
    return entry.key, entry.event, entry.model, entry.version


def _sum(counted: Entry, entry: Entry) -> Entry:
    return counted._replace(
        images=counted.images + entry.images,
        latency_us=counted.latency_us + entry.latency_us,
        requests=counted.requests + entry.requests,
    )
