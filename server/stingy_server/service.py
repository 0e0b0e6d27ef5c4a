"""The service behind the routes: it decodes, charges, calls the engine and applies the tier."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stingy_protection import (
    ScoreForm,
    SparseLogits,
    leak_bits,
    tighten,
)
from stingy_server.admission import Admission, Place
from stingy_server.codec.decode_pool import DecodePool
from stingy_server.codec.images import Pixels
from stingy_server.codec.loop_turns import LoopTurns
from stingy_server.deadlines import Deadlines
from stingy_server.detection.key_profiles import Action
from stingy_server.detection.monitor import Watch
from stingy_server.errors import (
    BUDGET_EXHAUSTED,
    DEADLINE,
    DRAINING,
    RATE_BELOW_REQUEST,
    REFUSED,
    SUSPENDED,
    UNAUTHENTICATED,
    UNKNOWN_MODEL,
    KeyChanged,
    ServiceError,
)
from stingy_server.inference.engine import refusal_of
from stingy_server.models.endpoints import Endpoint
from stingy_server.models.fleet import Fleet
from stingy_server.observability.budget_notices import BudgetNotices
from stingy_server.observability.metrics import Metrics
from stingy_server.observability.request_record import NO_VALUE, RequestRecord
from stingy_server.observability.tracing import Tracing
from stingy_server.rates.rate_limits import BatchOverRate, MemoryRates, Rates
from stingy_server.settings import FULL_TIER, Settings, Tier
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.budgets import Budgets, key_model_owner, key_owner, model_owner
from stingy_server.store.charges import CHANGED_KEY, INVALID_KEY, Charge, Charges
from stingy_server.store.database import Database
from stingy_server.store.group_commit import BatchedLookup, GroupCommit, StoreExecutor
from stingy_server.store.key import Caller, is_token
from stingy_server.store.keys import Keys
from stingy_server.store.ledger import Ledger
from stingy_server.store.refusal_tally import RefusalTally

if TYPE_CHECKING:
    from stingy_server.marks.marker import Marker
    from stingy_server.oidc.token_callers import TokenCallers

log = logging.getLogger("stingy")

INLINE_BYTES = 2**20  # pixels up to this size are hashed on the event loop, in about 1 ms
FULL = Tier()
LABELS = Tier(classes=1, scores="none")  # the smallest tier
MARKED = Tier(mark=True)
# A key whose answers are marked keeps its marks. Otherwise a second query would show them.
MARKED_LABELS = Tier(classes=1, scores="none", mark=True)


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

    async def admit(self, record: RequestRecord, *, query: bool, declared: int) -> Place:
        """Admit a request by its head: charge the request rate, and take its place.

        A request that arrives before a drain keeps its place until it ends, even if its body is
        slow.

        Args:
            query: whether it is a query, which a key with a spent budget cannot make.
            declared: bytes of the body, by the head.

        Raises:
            ServiceError: draining, rate_limited, budget_exhausted or overloaded.
        """
        if self.draining:
            raise ServiceError(DRAINING)
        key = record.key
        if key is None:
            raise ServiceError(REFUSED)
        rate = key.request_rate or self.settings.request_rate
        self.request_rates.charge(key.id, rate, 1)
        if query and record.spent:
            owners = [key_owner(key.id)]
            wait = await self.executor.run(lambda: self._budgets_wait_s(owners, 1))
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

    def refresh_key(self, record: RequestRecord) -> None:
        """Give a query its changed key, as the charge that found the change has looked it up.

        Raises:
            ServiceError: not_found, if the key may not query the model any more; unauthenticated,
                if it is not valid any more.
        """
        caller = self.charges.known.find(record.secret)
        if caller is None:
            raise ServiceError(UNAUTHENTICATED)
        record.key = caller.key
        if record.unwatched:
            self.watch.release(caller.key.id, record.unwatched)
            record.unwatched = 0
        if not caller.key.may_query(record.model):
            record.endpoint = None
            raise ServiceError(UNKNOWN_MODEL)

    def record_event(self, event: str) -> None:
        """Record an event of the server itself in the ledger.

        Raises:
            StoreUnavailable: the ledger cannot be written.
        """
        record = RequestRecord(NO_VALUE, time.perf_counter(), event=event)
        self.ledger.append(record.entry(0))

    def tier(self, record: RequestRecord) -> Tier:
        """Return the tier of the caller's key, or after an alarm a smaller one or one with marks.

        Raises:
            ServiceError: refused, if the settings do not have the key's tier; suspended, after an
                alarm that refuses; internal, if the watch has failed.
        """
        if record.key is None:
            raise ServiceError(REFUSED)
        action = self.watch.action(record.key.id)
        if action is Action.REFUSE:
            raise ServiceError(SUSPENDED)
        if action is Action.LABELS:
            marks = "mark" in self.settings.watch.ladder or self._marks(record.key.tier)
            return MARKED_LABELS if marks else LABELS
        if record.key.tier == FULL_TIER:
            return FULL if action is not Action.MARK else MARKED
        tier = self.settings.tiers.get(record.key.tier)
        if tier is None:
            log.error("a key has a tier that the settings do not have")
            raise ServiceError(REFUSED)
        return tier if action is not Action.MARK else tier.model_copy(update={"mark": True})

    def _marks(self, tier: str) -> bool:
        return tier in self.settings.tiers and self.settings.tiers[tier].mark

    async def answer(
        self,
        record: RequestRecord,
        endpoint: Endpoint,
        decode: Callable[[], Awaitable[Pixels]],
        *,
        images: int,
        tier: Tier,
    ) -> SparseLogits:
        """Charge the key for a batch, decode the batch, and answer it within the deadline.

        The whole batch is charged, or none of it. Nothing is decoded before. The answer is no
        larger than the tier permits. The guard refunds the budget of a request that ends without
        an answer. The rate counts attempts, so it is not refunded.

        Args:
            images: the number of images that `decode` will return.
            decode: returns uint8 [batch, height, width, 3], of the size that the endpoint takes.
            tier: the key's tier. A route looks it up once, after the body has arrived. A later
                alarm applies from the next request on.

        Raises:
            ServiceError: unauthenticated, if the key was revoked, rotated or expired before the
                whole request had arrived; rate_limited, budget_exhausted, overloaded, deadline,
                refused or internal.
            KeyChanged: the key was changed meanwhile.
        """
        try:
            with self.deadlines.start():
                self._reserve_watch(record, images)
                await self._charge(record, endpoint, images)
                return await self._answer(record, endpoint, await decode(), tier)
        except TimeoutError:
            raise ServiceError(DEADLINE) from None

    async def _answer(
        self, record: RequestRecord, endpoint: Endpoint, images: Pixels, tier: Tier
    ) -> SparseLogits:
        if images.nbytes <= INLINE_BYTES:
            record.pixels = self.ledger.digest(images)
        else:  # hashing releases the interpreter's lock, so the event loop goes on
            record.pixels = await asyncio.to_thread(self.ledger.digest, images)
        try:
            record.engine_started = time.perf_counter()
            if tier.mark:
                answer, bits = await self._answer_marked(record, endpoint, images, tier)
            else:
                whole, bits = await endpoint.engine.predict(images, caller=record.caller)
                record.engine_finished = time.perf_counter()
                answer = tighten_to_tier(whole, tier)
                if answer is not whole:
                    bits = leak_bits(answer)
            if record.key is not None:
                self.watch.observe(record.key.id, endpoint.name, images, answer, bits)
                record.unwatched = 0
        except Exception as error:  # noqa: BLE001  no text of any error may leave
            raise _service_error(error) from None
        record.answered = len(images)
        record.bits = bits
        record.event = "answer"
        return answer

    async def _answer_marked(
        self, record: RequestRecord, endpoint: Endpoint, images: Pixels, tier: Tier
    ) -> tuple[SparseLogits, float]:
        """Answer a batch of a key whose answers are marked. Return the answers and their bits.

        Raises:
            ServiceError: refused, if the settings have no marks.
        """
        if self.marker is None:
            raise ServiceError(REFUSED)
        classes = endpoint.policy.num_classes
        plan = await self.marker.plan(endpoint.name, images, num_classes=classes)
        whole, bits = await endpoint.engine.predict(images, caller=record.caller, flags=plan.flags)
        record.engine_finished = time.perf_counter()
        answer = tighten_to_tier(whole, tier)
        if answer is not whole:
            bits = leak_bits(answer)
        version = endpoint.manifest.version
        self.marker.keep(plan, record, images, answer, version=version)
        return answer, bits

    def _reserve_watch(self, record: RequestRecord, images: int) -> None:
        """Reserve room with the watch, so that a key is not answered faster than it is watched."""
        self.watch.reserve(record.caller, images)
        record.unwatched = images

    async def _charge(self, record: RequestRecord, endpoint: Endpoint, images: int) -> None:
        record.images = images
        if record.key is None:
            raise ServiceError(REFUSED)
        # A query that is tried once more, because its key was changed, has been counted.
        if record.key.rate is not None and record.rate is None:
            try:
                record.rate = await self.rates.charge(record.key.id, record.key.rate, images)
            except BatchOverRate as error:
                raise ServiceError(RATE_BELOW_REQUEST, limit=error.limit) from None
        owners: tuple[str, ...] = (key_owner(record.key.id), *record.groups)
        if self.fleet.limited(endpoint.name):
            owners += (model_owner(endpoint.name),)
        if endpoint.name in record.key.model_budgets:
            owners += (key_model_owner(record.key.id, endpoint.name),)
        charge = Charge(record.secret, record.key, owners, images)
        charged = await self.writes.run_together(self.charges.charge_all, charge, locks=owners)
        record.key_unchecked = False
        if charged is INVALID_KEY:
            raise ServiceError(UNAUTHENTICATED)
        if charged is CHANGED_KEY:
            raise KeyChanged
        record.charged = charged
        if charged is not None and charged.crossings:
            self.notices.report(charged.crossings, record.key)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            await asyncio.sleep(0)  # cancelled during the charge: the request ends here
        if record.charged is None:
            self.charges.known.drop(record.secret)  # so that the next look-up reads its budget
            wait = await self.executor.run(lambda: self._budgets_wait_s(owners, images))
            raise ServiceError(BUDGET_EXHAUSTED, retry_after=wait)

    def _budgets_wait_s(self, owners: Sequence[str], images: int) -> int | None:
        """Return the seconds until all budgets cover these images; None if they never do."""
        now = time.time()
        waits = []
        for owner in owners:
            budget = self.budgets.get(owner)
            wait = None if budget is None else budget.wait_s(images, now)
            if wait is None:
                return None
            waits.append(wait)
        return max(waits)

    def refund(self, record: RequestRecord) -> None:
        """Refund the charge of a request, if there is one, and clear its answer in the record."""
        if record.unwatched and record.key is not None:
            self.watch.release(record.key.id, record.unwatched)
            record.unwatched = 0
        if (charged := record.charged) is not None:
            # Not awaited. The queue is in order, so the ledger's entry is written after it.
            refunded = self.writes.submit(
                lambda: self.budgets.refund(charged), locks=charged.owners
            )
            refunded.add_done_callback(_log_if_failed)
        record.charged, record.answered, record.bits = None, 0, 0.0


def _log_if_failed(refunded: asyncio.Future[None]) -> None:
    if (error := refunded.exception()) is not None:
        # The charge stays, because one image charged too many is better than one too few.
        log.error("cannot refund: %s", error)


def tighten_to_tier(answer: SparseLogits, tier: Tier) -> SparseLogits:
    """Make an answer as small as a tier demands."""
    form = None if tier.scores == "keep" else ScoreForm(tier.scores)
    return tighten(answer, classes=tier.classes, decimals=tier.decimals, form=form)


def _service_error(error: Exception) -> ServiceError:
    """Return the error that the client gets for a failure between charge and answer."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, TimeoutError):
        return ServiceError(DEADLINE)
    log.error("no answer: %s", type(error).__name__)
    return ServiceError(refusal_of(error))
