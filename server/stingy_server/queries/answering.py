"""The answer of a query: it is charged, decoded, answered, and made as small as its tier."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from stingy_protection import SparseLogits, leak_bits
from stingy_server.codec.images import Pixels
from stingy_server.errors import DEADLINE, REFUSED, ServiceError
from stingy_server.inference.engine import refusal_of
from stingy_server.models.endpoints import Endpoint
from stingy_server.observability.request_record import RequestRecord
from stingy_server.queries.charging import charge_batch
from stingy_server.queries.tiers import tighten_to_tier
from stingy_server.service import Service
from stingy_server.settings import Tier

log = logging.getLogger("stingy")

INLINE_BYTES = 2**20  # pixels up to this size are hashed on the event loop, in about 1 ms


async def answer_batch(
    service: Service,
    record: RequestRecord,
    endpoint: Endpoint,
    decode: Callable[[], Awaitable[Pixels]],
    *,
    images: int,
    tier: Tier,
) -> SparseLogits:
    """Charge the key for a batch, decode the batch, and answer it within the deadline.

    The whole batch is charged, or none of it. Nothing is decoded before. The answer is no
    larger than the tier permits. A request that ends without an answer gets its budget back. The
    rate counts attempts, so it is not refunded.

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
        with service.deadlines.start():
            # Room with the watch, so that a key is not answered faster than it is watched.
            service.watch.reserve(record.caller, images)
            record.unwatched = images
            await charge_batch(service, record, endpoint, images)
            return await _answer(service, record, endpoint, await decode(), tier)
    except TimeoutError:
        raise ServiceError(DEADLINE) from None


async def _answer(
    service: Service, record: RequestRecord, endpoint: Endpoint, images: Pixels, tier: Tier
) -> SparseLogits:
    if images.nbytes <= INLINE_BYTES:
        record.pixels = service.ledger.digest(images)
    else:  # hashing releases the interpreter's lock, so the event loop goes on
        record.pixels = await asyncio.to_thread(service.ledger.digest, images)
    try:
        record.engine_started = time.perf_counter()
        if tier.mark:
            answer, bits = await _answer_marked(service, record, endpoint, images, tier)
        else:
            whole, bits = await endpoint.engine.predict(images, caller=record.caller)
            record.engine_finished = time.perf_counter()
            answer = tighten_to_tier(whole, tier)
            if answer is not whole:
                bits = leak_bits(answer)
        if record.key is not None:
            service.watch.observe(record.key.id, endpoint.name, images, answer, bits)
            record.unwatched = 0
    except Exception as error:  # noqa: BLE001  no text of any error may leave
        raise _service_error(error) from None
    record.answered = len(images)
    record.bits = bits
    record.event = "answer"
    return answer


async def _answer_marked(
    service: Service, record: RequestRecord, endpoint: Endpoint, images: Pixels, tier: Tier
) -> tuple[SparseLogits, float]:
    """Answer a batch of a key whose answers are marked. Return the answers and their bits.

    Raises:
        ServiceError: refused, if the settings have no marks.
    """
    if service.marker is None:
        raise ServiceError(REFUSED)
    classes = endpoint.policy.num_classes
    plan = await service.marker.plan(endpoint.name, images, num_classes=classes)
    whole, bits = await endpoint.engine.predict(images, caller=record.caller, flags=plan.flags)
    record.engine_finished = time.perf_counter()
    answer = tighten_to_tier(whole, tier)
    if answer is not whole:
        bits = leak_bits(answer)
    version = endpoint.manifest.version
    service.marker.keep(plan, record, images, answer, version=version)
    return answer, bits


def _service_error(error: Exception) -> ServiceError:
    """Return the error that the client gets for a failure between charge and answer."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, TimeoutError):
        return ServiceError(DEADLINE)
    log.error("no answer: %s", type(error).__name__)
    return ServiceError(refusal_of(error))
