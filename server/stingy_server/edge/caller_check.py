"""The check of a key, and the refusal of a request that failed, over HTTP and over gRPC."""

import logging

from stingy_server.errors import INTERNAL, STORE_UNAVAILABLE, UNAUTHENTICATED, Refusal, ServiceError
from stingy_server.observability.request_record import RequestRecord
from stingy_server.service import Service
from stingy_server.store.base import StoreUnavailable

log = logging.getLogger("stingy")

MAX_KEY_LENGTH = 256
MAX_TOKEN_LENGTH = 8192  # of a JSON Web Token


async def authenticate(
    service: Service,
    record: RequestRecord,
    authorization: bytes,
    *,
    charges: bool,
    model: str | None = None,
) -> None:
    """Find the caller of a request by its key, and put it into the record.

    Args:
        authorization: the value of the header or the metadata; empty if there is none, or more than
            one.
        charges: whether the request ends with a charge, which checks the key anew. A caller that
            this process knows is then not looked up in the store.
        model: the model of the query, if it is known yet.

    Raises:
        ServiceError: unauthenticated.
        StoreUnavailable: the store cannot be read.
    """
    scheme, _, secret = authorization.partition(b" ")
    most = MAX_KEY_LENGTH if service.tokens is None else MAX_TOKEN_LENGTH
    if scheme.lower() != b"bearer" or not 0 < len(secret) <= most:
        raise ServiceError(UNAUTHENTICATED)
    record.secret = secret.decode("latin-1")
    caller = service.known_caller(record.secret, model) if charges else None
    record.key_unchecked = caller is not None
    if caller is None:
        caller = await service.look_up_caller(record.secret)
    if caller is None:
        raise ServiceError(UNAUTHENTICATED)
    record.key, record.spent, record.groups = caller.key, caller.spent, caller.groups


async def find_refusal(service: Service, record: RequestRecord, error: Exception) -> Refusal:
    """Return the refusal of a request that ended with this error.

    A request whose key was revoked before a charge found out gets UNAUTHENTICATED.
    """
    if isinstance(error, ServiceError):
        try:
            await service.refresh_caller(record)
        except ServiceError as invalid:
            return invalid.refusal
        except StoreUnavailable:
            return STORE_UNAVAILABLE
        return error.refusal
    if isinstance(error, StoreUnavailable):
        log.error("%s", error)
        return STORE_UNAVAILABLE
    # Log only the type, because a message may quote the data.
    log.error("unexpected %s", type(error).__name__)
    return INTERNAL
