"""What happens to one request: decode, charge, engine, tier; and the parts that do it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from stingy_protection import (
    ScoreForm,
    SparseLogits,
    leak_bits,
    tighten,
)
from stingy_server.codec.images import Pixels
from stingy_server.detection.key_profiles import Action
from stingy_server.detection.monitor import Watch
from stingy_server.errors import (
    BUDGET_EXHAUSTED,
    DEADLINE,
    REFUSED,
    SUSPENDED,
    UNAUTHENTICATED,
    UNKNOWN_MODEL,
    ServiceError,
)
from stingy_server.inference.engine import refusal_of
from stingy_server.models.endpoints import Endpoint
from stingy_server.models.fleet import Fleet
from stingy_server.observability.metrics import Metrics
from stingy_server.observability.request_record import NO_VALUE, RequestRecord
from stingy_server.observability.tracing import Tracing
from stingy_server.settings import FULL_TIER, Settings, Tier
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.budgets import DAY_S, Budgets, key_owner, model_owner
from stingy_server.store.database import Database
from stingy_server.store.group_commit import BatchedLookup, GroupCommit, StoreExecutor
from stingy_server.store.keys import Key, Keys
from stingy_server.store.ledger import Ledger
from stingy_server.store.rate_limits import Rates

log = logging.getLogger("stingy")

FRESH_S = 1.0  # a key that was found valid is so for that long, and then asked for again
FULL = Tier()
LABELS = Tier(classes=1, scores="none")  # no tier sees less


@dataclass
class Service:
    """The endpoints, the store and the watch of one process, shared by all routes.

    Attributes:
        last_writes: calls that write to the state while the service closes, in order.
    """

    settings: Settings
    database: Database
    keys: Keys
    key_lookup: BatchedLookup[Key | None]  # from the text of a key to the key
    budgets: Budgets
    ledger: Ledger
    writes: GroupCommit
    executor: StoreExecutor
    rates: Rates
    metrics: Metrics
    tracing: Tracing
    watch: Watch
    fleet: Fleet
    draining: bool = False
    last_writes: list[Callable[[], None]] = field(default_factory=list)

    def start(self) -> None:
        """Record the start in the ledger and start the watch.

        Raises:
            StoreUnavailable: the ledger cannot be written.
        """
        self.note("start")
        self.last_writes.append(lambda: self.note("stop"))
        self.watch.start()

    async def drain(self) -> None:
        """Refuse new requests, answer those in flight, and flush the queued writes."""
        self.draining = True
        for endpoint in self.fleet:
            await endpoint.engine.close()
        await self.writes.flush()

    def close(self) -> None:
        """Close the parts of the service, the state last. The engines are closed before."""
        self.watch.close()
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

    def endpoint(self, record: RequestRecord, model: str, version: str | None = None) -> Endpoint:
        """The version of this model that was named, or that the caller meets.

        Raises:
            ServiceError: there is none, or not in this version.
        """
        caller = NO_VALUE if record.key is None else record.key.id
        found = self.fleet.find(model, version, caller=caller)
        if found is None:
            raise ServiceError(UNKNOWN_MODEL)
        record.endpoint = found
        return found

    def note(self, event: str) -> None:
        """Put an event of the server itself into the ledger.

        Raises:
            StoreUnavailable: the ledger cannot be written.
        """
        record = RequestRecord(NO_VALUE, time.perf_counter(), event=event)
        self.ledger.append(record.entry(0))

    def tier(self, record: RequestRecord) -> Tier:
        """What the caller may see at most.

        Raises:
            ServiceError: refused, for a key of a tier that the settings do not have; suspended,
                after an alarm.
        """
        if record.key is None:
            raise ServiceError(REFUSED)
        action = self.watch.action(record.key.id)
        if action is Action.REFUSE:
            raise ServiceError(SUSPENDED)
        if action is Action.LABELS:
            return LABELS
        if record.key.tier == FULL_TIER:
            return FULL
        tier = self.settings.tiers.get(record.key.tier)
        if tier is None:
            log.error("a key has a tier that the settings do not have")
            raise ServiceError(REFUSED)
        return tier

    async def answer(
        self,
        record: RequestRecord,
        endpoint: Endpoint,
        decode: Callable[[], Awaitable[Pixels]],
        *,
        tier: Tier,
    ) -> SparseLogits:
        """Decode a batch, charge the key for it, all or nothing, and answer it within the deadline.

        The answer is made no larger than the tier permits. The guard refunds a request that ends
        without an answer.

        Args:
            decode: makes [batch, height, width, 3], of the size the endpoint takes.
            tier: the key's tier, looked up once a request after its body: an alarm after that
                counts from the next request on.

        Raises:
            ServiceError: unauthenticated, for a key that ended before the request had come;
                rate_limited, budget_exhausted, overloaded, deadline, refused or internal.
        """
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                return await self._answer(record, endpoint, await decode(), tier)
        except TimeoutError:
            raise ServiceError(DEADLINE) from None

    async def _answer(
        self, record: RequestRecord, endpoint: Endpoint, images: Pixels, tier: Tier
    ) -> SparseLogits:
        record.images = len(images)
        record.pixels = self.ledger.digest(images)
        await self._charge(record, endpoint, len(images))
        try:
            record.engine_started = time.perf_counter()
            answer = await endpoint.engine.predict(images)
            record.engine_finished = time.perf_counter()
            answer = tightened(answer, tier)
            bits = leak_bits(answer)
            if record.key is not None:
                self.watch.observe(record.key.id, endpoint.name, images, answer, bits)
        except Exception as error:  # noqa: BLE001  nothing of it may leave, in whatever text
            raise _service_error(error) from None
        record.answered = len(images)
        record.bits = bits
        record.event = "answer"
        return answer

    async def _charge(self, record: RequestRecord, endpoint: Endpoint, images: int) -> None:
        if record.key is None:
            raise ServiceError(REFUSED)
        # A body may take its time: a key that was valid at its head may have been revoked since.
        stale = time.perf_counter() - record.started > FRESH_S
        if stale and await self.key_lookup.lookup(record.secret) is None:
            raise ServiceError(UNAUTHENTICATED)
        if record.key.rate is not None:
            state = await self.rates.charge(record.key.id, record.key.rate, images)
            record.headers = {
                "ratelimit-limit": str(state.limit),
                "ratelimit-remaining": str(state.remaining),
                "ratelimit-reset": str(state.reset_s),
            }
        owners = [key_owner(record.key.id)]
        if self.fleet.limited(endpoint.name):
            owners.append(model_owner(endpoint.name))
        record.charged = await self.writes.run(
            lambda: self.budgets.reserve(owners, images), locks=owners
        )
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            await asyncio.sleep(0)  # cut off meanwhile: it ends here, before anything else does
        if record.charged is None:
            wait = await self.executor.run(lambda: self._next_day(owners, images))
            raise ServiceError(BUDGET_EXHAUSTED, retry_after=wait)

    def _next_day(self, owners: list[str], images: int) -> int | None:
        """Seconds until a day's budget opens again; None where waiting does not help."""
        for owner in owners:
            budget = self.budgets.get(owner)
            if budget is None or (budget.total is not None and budget.used + images > budget.total):
                return None
            if budget.day_total is not None and images > budget.day_total:
                return None
        return max(1, DAY_S - int(time.time() % DAY_S))

    def give_back(self, record: RequestRecord) -> None:
        """Refund what was charged, if anything was, and forget what was to be answered."""
        if (charged := record.charged) is not None:
            # Nobody waits for it here, but the entry in the ledger is written after it.
            given = self.writes.submit(lambda: self.budgets.refund(charged), locks=charged.owners)
            given.add_done_callback(_refunded)
        record.charged, record.answered, record.bits = None, 0, 0.0


def _refunded(given: asyncio.Future[None]) -> None:
    if (error := given.exception()) is not None:
        # The charge stands: better one image too many charged than one too few.
        log.error("not given back: %s", error)


def tightened(answer: SparseLogits, tier: Tier) -> SparseLogits:
    """The answer as a tier may see it."""
    form = None if tier.scores == "keep" else ScoreForm(tier.scores)
    return tighten(answer, classes=tier.classes, decimals=tier.decimals, form=form)


def _service_error(error: Exception) -> ServiceError:
    """Return what the client gets for a failure between reservation and answer."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, TimeoutError):
        return ServiceError(DEADLINE)
    log.error("no answer: %s", type(error).__name__)
    return ServiceError(refusal_of(error))
