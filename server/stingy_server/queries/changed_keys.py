"""A query whose key is changed before its charge: a route tries it once more, under the new key."""

from stingy_server.errors import UNAUTHENTICATED, UNKNOWN_MODEL, ServiceError
from stingy_server.observability.request_record import RequestRecord
from stingy_server.queries.tiers import find_tier
from stingy_server.service import Service
from stingy_server.settings import Tier


def refresh_key(service: Service, record: RequestRecord) -> Tier:
    """Give a query its changed key, as the charge that found the change has looked it up.

    Returns:
        The tier under which the query is tried once more.

    Raises:
        ServiceError: not_found, if the key may not query the model any more; unauthenticated, if
            it is not valid any more; any refusal of `find_tier`.
    """
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
    return find_tier(service, record)
