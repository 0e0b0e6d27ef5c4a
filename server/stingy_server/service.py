"""The service behind the routes: its parts, their start and end, its callers and its models."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stingy_server.admission import Admission, Place
from stingy_server.codec.decode_pool import DecodePool
from stingy_server.codec.loop_turns import LoopTurns
from stingy_server.deadlines import Deadlines
from stingy_server.detection.monitor import Watch
from stingy_server.errors import (
    BUDGET_EXHAUSTED,
    DRAINING,
    REFUSED,
    UNAUTHENTICATED,
    UNKNOWN_MODEL,
    ServiceError,
)
from stingy_server.models.endpoints import Endpoint
from stingy_server.models.fleet import Fleet
from stingy_server.observability.budget_notices import BudgetNotices
from stingy_server.observability.metrics import Metrics
from stingy_server.observability.request_record import RequestRecord
from stingy_server.observability.tracing import Tracing
from stingy_server.rates.memory_rates import MemoryRates
from stingy_server.rates.rates import Rates
from stingy_server.settings import Settings
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.budgets import Budgets, key_owner
from stingy_server.store.charges import Charges
from stingy_server.store.database import Database
from stingy_server.store.group_commit import BatchedLookup, GroupCommit, StoreExecutor
from stingy_server.store.key import Caller, is_token
from stingy_server.store.keys import Keys
from stingy_server.store.ledger import NO_VALUE, Ledger
from stingy_server.store.refusal_tally import RefusalTally

if TYPE_CHECKING:
    from stingy_server.marks.marker import Marker
    from stingy_server.oidc.token_callers import TokenCallers

log = logging.getLogger("stingy")


@dataclass
class Service:
    """The endpoints, the store and the watch of one process, shared by all routes.

    Attributes:
        draining: whether new requests are refused.
        drain_until: the time at which requests in flight end, in seconds of `time.monotonic`.
        tokens: the callers of tokens; None if there are keys alone.
        last_writes: calls that write to the state while the service closes, in order.
        marker: the marks in answers; None if the settings mark none.
    """

    settings: Settings
    database: Database
    keys: Keys
    key_lookup: BatchedLookup[Caller | None]  # from the text of a key to its caller
    budgets: Budgets
    charges: Charges
    ledger: Ledger
    refusals: RefusalTally
    writes: GroupCommit
    executor: StoreExecutor
    rates: Rates
    request_rates: MemoryRates  # of this process
    metrics: Metrics
    notices: BudgetNotices
    tracing: Tracing
    watch: Watch
    fleet: Fleet
    admission: Admission
    decoders: DecodePool
    turns: LoopTurns
    deadlines: Deadlines
    draining: bool = False
    tokens: "TokenCallers | None" = None
    drain_until: float = math.inf
    last_writes: list[Callable[[], None]] = field(default_factory=list)
    marker: "Marker | None" = None

    def start(self) -> None:
        """Record the start in the ledger, and start the watch.

        Raises:
            StoreUnavailable: the ledger cannot be written.
        """
        self.record_event("start")
        self.last_writes.append(lambda: self.record_event("stop"))
        self.watch.start()
        if self.tokens is not None:
            self.tokens.start()

    def begin_drain(self, *, at_once: bool = False) -> None:
        """Refuse new requests from now on.

        Args:
            at_once: whether the requests in flight end now, and not after `drain_s`.
        """
        self.draining = True
        seconds = 0.0 if at_once else self.settings.drain_s
        self.drain_until = min(self.drain_until, time.monotonic() + seconds)

    async def drain(self) -> None:
        """Refuse new requests, answer those in flight, and flush the queued writes."""
        self.begin_drain()
        for endpoint in self.fleet:
            await endpoint.engine.close()
        if self.marker is not None:
            self.marker.write_waiting()
        await self.writes.flush()
        await self.rates.close()
        if self.tokens is not None:
            await self.tokens.close()

    def close(self) -> None:
        """Close the parts of the service, the state last. `drain` has closed the engines."""
        self.watch.close()
        self.notices.close()
        self.decoders.close()
        self.tracing.close()
        self.writes.close()
        self.executor.close()
        self.key_lookup.close()
        try:
            for write in self.last_writes:
                write()
        except StoreUnavailable as error:
            log.error("%s", error)
        self.database.close()

    def known_caller(self, secret: str, model: str | None = None) -> Caller | None:
        """Return a caller that this process has looked up before, if it may query.

        Its key may have been revoked or changed meanwhile. The charge of the request finds out.

        Args:
            model: the model of the query. A key that may not query it is not returned, because
                it may be permitted now.
        """
        caller = self.charges.known.find(secret)
        if caller is None or caller.spent:
            return None
        return caller if model is None or caller.key.may_query(model) else None

    async def look_up_caller(self, secret: str) -> Caller | None:
        """Return the caller of a key or a token by the store, or None if it is not valid.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        if self.tokens is not None and is_token(secret):
            caller = await self.tokens.look_up(secret)
        else:
            caller = await self.key_lookup.lookup(secret)
        if caller is None:
            self.charges.known.drop(secret)
        else:
            self.charges.known.keep(secret, caller)
        return caller

    async def refresh_caller(self, record: RequestRecord) -> Caller | None:
        """Look up the key of a request that is to be refused, because it may have been changed.

        A key that was looked up for this request, or charged, is not looked up once more.

        Returns:
            The caller if its key was changed, and None if not.

        Raises:
            ServiceError: unauthenticated, if the key is not valid any more.
            StoreUnavailable: the store cannot be read.
        """
        if not record.key_unchecked:
            return None
        caller = await self.look_up_caller(record.secret)
        record.key_unchecked = False
        if caller is None:
            raise ServiceError(UNAUTHENTICATED)
        if caller.key == record.key:
            return None
        record.key, record.spent, record.groups = caller.key, caller.spent, caller.groups
        return caller

    async def admit(self, record: RequestRecord, *, query: bool, declared: int) -> Place:
        """Admit a request by its head: charge the request rate, and take its place.

        A request that arrives before a drain keeps its place until it ends, even if its body is
        slow.

        Args:
            query: whether it is a query, which a key with a spent budget cannot make.
            declared: bytes of the body, by the head.

        Raises:
            ServiceError: draining, unauthenticated, rate_limited, budget_exhausted or overloaded.
        """
        if self.draining:
            raise ServiceError(DRAINING)
        key = record.key
        if key is None:
            raise ServiceError(REFUSED)
        rate = key.request_rate or self.settings.request_rate
        try:
            self.request_rates.charge(key.id, rate, 1)
        except ServiceError:
            changed = await self.refresh_caller(record)
            if changed is None:
                raise
            key = changed.key
            rate = key.request_rate or self.settings.request_rate
            self.request_rates.charge(key.id, rate, 1)
        if query and record.spent:
            owners = [key_owner(key.id)]
            wait = await self.executor.run(lambda: self.budgets.wait_s(owners, 1))
            raise ServiceError(BUDGET_EXHAUSTED, retry_after=wait)
        place = self.admission.enter(key.id, declared=declared)
        self.metrics.in_flight.inc()
        return place

    def leave(self, place: Place) -> None:
        """Give the room of a request back."""
        place.close()
        self.metrics.in_flight.dec()

    def endpoint(self, record: RequestRecord, model: str, version: str | None = None) -> Endpoint:
        """Return the named version of a model, or the version that this caller gets by default.

        A model that the key may not query is refused as one that is not there.

        Raises:
            ServiceError: not_found, if there is no such model or version for this key; overloaded,
                if the model has its share of the room.
        """
        found = self.fleet.find(model, version, caller=record.caller)
        if found is None or (record.key is not None and not record.key.may_query(model)):
            raise ServiceError(UNKNOWN_MODEL)
        record.endpoint = found
        if record.place is not None and self.fleet.several:
            record.place.use_model(found.name)
        return found

    def endpoints(self, record: RequestRecord) -> list[Endpoint]:
        """Return the endpoints of the models that the key may query, for lists of models."""
        key = record.key
        return [each for each in self.fleet if key is not None and key.may_query(each.name)]

    def record_event(self, event: str) -> None:
        """Record an event of the server itself in the ledger.

        Raises:
            StoreUnavailable: the ledger cannot be written.
        """
        record = RequestRecord(NO_VALUE, time.perf_counter(), event=event)
        self.ledger.append(record.entry(0))
