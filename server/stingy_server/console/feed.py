"""The feed of the page: one read of the state a second, shared by all that look, and the writes.

Everything runs in one thread, so that a state that is locked or slow delays no request but those
for it, and a PostgreSQL has one connection of the console.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from stingy_server.console.documents import (
    Document,
    detail_document,
    entry_document,
    key_document,
    model_documents,
    server_document,
)
from stingy_server.console.estimates import Audits
from stingy_server.console.series import summary
from stingy_server.console.state_view import StateGone, StateView
from stingy_server.console.traffic import Traffic
from stingy_server.detection.key_profiles import KeyProfileStore
from stingy_server.settings import Settings
from stingy_server.store.base import OutcomeUnknown, StoreBusy, StoreUnavailable
from stingy_server.store.database import Database
from stingy_server.store.deployments import Deployments
from stingy_server.store.keys import Keys

log = logging.getLogger("stingy")

EVERY_S = 0.9  # a read that is younger serves another request
GONE = "The state is gone. The numbers are those of the last read."
LOCKED = "The state is locked by another process. The numbers are those of the last read."
BUSY = "The state is locked by another process. Nothing was changed; try once more."
UNREADABLE = "The state cannot be read; the terminal says why. The numbers are old."
UNWRITABLE = "The state cannot be written; the terminal says why. Nothing was changed."
UNKNOWN = "The state did not confirm the change; the ledger shows whether it was made."
NOT_IN_ALARM = "Expected a key in alarm, got another; it may have been released already."
NOT_VALID = "Expected a valid key, got another; it may have been revoked already."

Result = TypeVar("Result")


@dataclass(frozen=True)
class Query:
    """The parts of the page that a request wants beside the overview.

    Attributes:
        entries: the kind of entries of the ledger: "all", "answers", "refusals", "events".
        key: the id of the key whose detail is open, or None.
    """

    entries: str = "all"
    key: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The end of a change. `fault` is a sentence for the operator, None if the change was made."""

    status: int
    fault: str | None = None


class Feed:
    """The state of one console.

    Args:
        settings: the settings that name the state, its tiers, and the score of an alarm.
        audits: the audits that the operator named.
        operator: the user on the host, for the ledger.
    """

    def __init__(self, settings: Settings, audits: Audits, *, operator: str) -> None:
        self._settings = settings
        self._audits = audits
        self._detail = {"by": operator, "through": "console"}
        self._view = StateView(settings.state, settings.store)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="console")
        self._database: Database | None = None
        self._traffic = Traffic()
        self._overview: Document = {}
        self._read_at = 0.0  # of `time.time`; 0 if nothing was read yet
        self._tried = float("-inf")  # of `time.monotonic`
        self._fault: str | None = None

    def start(self) -> list[str]:
        """Read the state for the first time. Return the faults; none if it can be shown."""
        try:
            self._thread.submit(self._read_overview).result()
        except (StoreUnavailable, ValueError) as error:
            return [str(error)]
        return []

    async def document(self, query: Query) -> Document:
        """Return the page's document, after a read of the state if the last one is old."""
        return await self._run(lambda: self._document(query))

    async def release(self, key: str) -> Outcome:
        """Undo the action of an alarm on a key, and record who did."""
        return await self._change(
            lambda state: KeyProfileStore(state).release(key, detail=self._detail), NOT_IN_ALARM
        )

    async def revoke(self, key: str) -> Outcome:
        """Make a key invalid from now on, and record who did."""
        return await self._change(
            lambda state: Keys(state).revoke(key, detail=self._detail), NOT_VALID
        )

    def close(self) -> None:
        """Close the state."""
        self._thread.submit(self._view.close)
        self._thread.shutdown()

    async def _run(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _change(self, change: Callable[[Database], bool], refused: str) -> Outcome:
        return await self._run(lambda: self._write(change, refused))

    def _write(self, change: Callable[[Database], bool], refused: str) -> Outcome:
        settings = self._settings
        try:
            self._view.database()  # of this version, so that opening it to write upgrades nothing
            with contextlib.closing(
                Database(settings.state, store=settings.store, create=False)
            ) as state:
                done = change(state)
        except OutcomeUnknown as error:
            log.error("%s", error)
            return Outcome(503, UNKNOWN)
        except StoreUnavailable as error:
            log.error("%s", error)
            return Outcome(503, BUSY if isinstance(error, StoreBusy) else UNWRITABLE)
        finally:
            self._tried = float("-inf")  # the next document shows the change
        return Outcome(200) if done else Outcome(409, refused)

    def _document(self, query: Query) -> Document:
        if time.monotonic() - self._tried >= EVERY_S:
            self._read()
        detail = None
        if query.key is not None and self._fault is None:
            detail = self._try(lambda: self._read_detail(str(query.key)))
        return {
            **self._overview,
            "read_at": self._read_at,
            "now": time.time(),
            "fault": self._fault,
            "entries": [entry_document(each) for each in self._traffic.entries(query.entries)],
            "detail": detail,
        }

    def _read(self) -> None:
        overview = self._try(self._read_overview)
        self._tried = time.monotonic()
        if overview is not None:
            self._overview, self._read_at = overview, time.time()

    def _try(self, read: Callable[[], Result]) -> Result | None:
        """Read the state. Return None, and keep the fault, if that fails."""
        try:
            found = read()
        except (StoreUnavailable, ValueError) as error:  # a ValueError is a row that is not ours
            if self._fault is None:
                log.error("%s", error)
            self._fault = _read_fault(error)
            return None
        if self._fault is not None:
            log.warning("the state can be read")
        self._fault = None
        return found

    def _open(self) -> Database:
        database = self._view.database()
        if database is not self._database:
            self._database, self._traffic = database, Traffic()
        return database

    def _read_overview(self) -> Document:
        database, now = self._open(), time.time()
        self._traffic.read(database, now=now)
        profiles = {profile.key: profile for profile in KeyProfileStore(database).all()}
        keys = [
            key_document(
                key,
                budget,
                profiles.get(key.id),
                traffic=self._traffic,
                audits=self._audits,
                alarm=self._settings.watch.alarm,
                now=now,
            )
            for key, budget in Keys(database).all()
        ]
        reports = Deployments(database).reports()
        return {
            "server": server_document(reports),
            "traffic": summary(self._traffic.seconds(now)),
            "keys": keys,
            "models": model_documents(reports, self._traffic, now=now),
            "complete": self._traffic.complete,
        }

    def _read_detail(self, key_id: str) -> Document | None:
        database = self._open()
        keys = Keys(database)
        found = [key for key in keys.named(key_id) if key.id == key_id]
        if not found:
            return None
        profile = KeyProfileStore(database).get(key_id)
        return detail_document(
            found[0],
            keys.budget(found[0]),
            profile if profile.updated else None,
            self._traffic.of_key(database, key_id),
            traffic=self._traffic,
            audits=self._audits,
        )


def _read_fault(error: Exception) -> str:
    """Return the sentence for a read that failed."""
    if isinstance(error, StateGone):
        return GONE
    return LOCKED if isinstance(error, StoreBusy) else UNREADABLE
