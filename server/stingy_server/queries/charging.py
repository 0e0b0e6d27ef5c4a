"""The charge of a query to its rate and its budgets, and its refund."""

import asyncio
from functools import partial

from stingy_server.errors import (
    BUDGET_EXHAUSTED,
    RATE_BELOW_REQUEST,
    REFUSED,
    UNAUTHENTICATED,
    KeyChanged,
    ServiceError,
)
from stingy_server.models.endpoints import Endpoint
from stingy_server.observability.request_record import RequestRecord
from stingy_server.rates.rate_limits import BatchOverRate
from stingy_server.service import Service
from stingy_server.store.budgets import key_model_owner, key_owner, model_owner
from stingy_server.store.charges import CHANGED_KEY, INVALID_KEY, Charge
from stingy_server.store.group_commit import log_failed_write


async def charge_batch(
    service: Service, record: RequestRecord, endpoint: Endpoint, images: int
) -> None:
    """Charge the key's rate, and then every budget that covers the query, all or none.

    Args:
        images: their number.

    Raises:
        ServiceError: unauthenticated, rate_limited, budget_exhausted or refused.
        KeyChanged: the key was changed meanwhile. Nothing was charged to a budget.
    """
    record.images = images
    if record.key is None:
        raise ServiceError(REFUSED)
    # A query that is tried once more, because its key was changed, has been counted.
    if record.key.rate is not None and record.rate is None:
        try:
            record.rate = await service.rates.charge(record.key.id, record.key.rate, images)
        except BatchOverRate as error:
            raise ServiceError(RATE_BELOW_REQUEST, limit=error.limit) from None
    owners: tuple[str, ...] = (key_owner(record.key.id), *record.groups)
    if service.fleet.limited(endpoint.name):
        owners += (model_owner(endpoint.name),)
    if endpoint.name in record.key.model_budgets:
        owners += (key_model_owner(record.key.id, endpoint.name),)
    charge = Charge(record.secret, record.key, owners, images)
    charged = await service.writes.run_together(service.charges.charge_all, charge, locks=owners)
    record.key_unchecked = False
    if charged is INVALID_KEY:
        raise ServiceError(UNAUTHENTICATED)
    if charged is CHANGED_KEY:
        raise KeyChanged
    record.charged = charged
    if charged is not None and charged.crossings:
        service.notices.report(charged.crossings, record.key)
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        await asyncio.sleep(0)  # cancelled during the charge: the request ends here
    if record.charged is None:
        service.charges.known.drop(record.secret)  # so that the next look-up reads its budget
        wait = await service.executor.run(lambda: service.budgets.wait_s(owners, images))
        raise ServiceError(BUDGET_EXHAUSTED, retry_after=wait)


def refund_request(service: Service, record: RequestRecord) -> None:
    """Refund the charge of a request, if there is one, and clear its answer in the record."""
    if record.unwatched and record.key is not None:
        service.watch.release(record.key.id, record.unwatched)
        record.unwatched = 0
    if (charged := record.charged) is not None:
        # Not awaited. The queue is in order, so the ledger's entry is written after it.
        refunded = service.writes.submit(
            lambda: service.budgets.refund(charged), locks=charged.owners
        )
        # If it fails, the charge stays: one image too many is better than one too few.
        refunded.add_done_callback(partial(log_failed_write, "cannot refund"))
    record.charged, record.answered, record.bits = None, 0, 0.0
