"""A query whose key is changed before its charge: a route tries it once more, under the new key."""

from stingy_server.errors import UNAUTHENTICATED, UNKNOWN_MODEL, KeyChanged, ServiceError
from stingy_server.observability.request_record import RequestRecord
from stingy_server.queries.tiers import find_tier
from stingy_server.service import Service
from stingy_server.settings import Tier


async def refresh_key(service: Service, record: RequestRecord, error: ServiceError) -> Tier:
    """Give a query its changed key. A query whose key was not changed ends with its refusal.

    A charge that finds a change has looked the key up. For a refusal before the charge, such as
    that of a rate, this does it, because the refusal may come from earlier settings of the key.

    Args:
        error: the refusal with which the query ended.

    Returns:
        The tier under which the query is tried once more.

    Raises:
        ServiceError: `error`, if the key was not changed; not_found, if the key may not query the
            model any more; unauthenticated, if it is not valid any more; any refusal of
            `find_tier`.
        StoreUnavailable: the store cannot be read.
    """
    if isinstance(error, KeyChanged):
        caller = service.charges.known.find(record.secret)
        if caller is None:
            raise ServiceError(UNAUTHENTICATED)
        record.key = caller.key
    else:
        caller = await service.refresh_caller(record)
        if caller is None:
            raise error
    if record.unwatched:
        service.watch.release(caller.key.id, record.unwatched)
        record.unwatched = 0
    if record.endpoint is not None and not caller.key.may_query(record.model):
        record.endpoint = None
        raise ServiceError(UNKNOWN_MODEL)
    return find_tier(service, record)
