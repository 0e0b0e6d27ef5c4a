"""A query whose key is changed before its charge: it is tried once more, under the new settings."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from stingy_server.errors import UNAUTHENTICATED, UNKNOWN_MODEL, KeyChanged, ServiceError
from stingy_server.observability.request_record import RequestRecord
from stingy_server.queries.tiers import find_tier
from stingy_server.service import Service
from stingy_server.settings import Tier

Answer = TypeVar("Answer")


async def answer_under_key(
    service: Service, record: RequestRecord, answer: Callable[[Tier], Awaitable[Answer]]
) -> Answer:
    """Answer a query under its key's tier, and once more if the key is changed meanwhile.

    Args:
        answer: answers the query under a tier.

    Raises:
        ServiceError: any refusal of `answer` or `find_tier`; not_found, if the changed key may not
            query the model any more; unauthenticated, if it is not valid any more.
    """
    try:
        return await answer(find_tier(service, record))
    except KeyChanged:
        _refresh_key(service, record)
        return await answer(find_tier(service, record))


def _refresh_key(service: Service, record: RequestRecord) -> None:
    """Give a query its changed key, as the charge that found the change has looked it up."""
    caller = service.charges.known.find(record.secret)
    if caller is None:
        raise ServiceError(UNAUTHENTICATED)
    record.key = caller.key
    if record.unwatched:
        service.watch.release(caller.key.id, record.unwatched)
        record.unwatched = 0
    if not caller.key.may_query(record.model):
        record.endpoint = None
        raise ServiceError(UNKNOWN_MODEL)
