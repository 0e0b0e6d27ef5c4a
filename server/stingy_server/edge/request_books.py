"""The books of one request: refund, ledger entry, metrics and trace, over HTTP and over gRPC alike.

The sender of a response first enters the request, and then sends what the ledger has.
"""

import contextlib
import logging
import time
from functools import partial

from stingy_server.errors import STORE_UNAVAILABLE, Refusal
from stingy_server.observability.request_record import RequestRecord
from stingy_server.queries.charging import refund_request
from stingy_server.service import Service
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.group_commit import log_failed_write

log = logging.getLogger("stingy")

ANSWERED = "answer"  # the event of a request with an answer
CANCELLED = "cancelled"  # the event of a request that ended without a response


class RequestBooks:
    """The books of one request. Of requests, only a query with a valid key makes the ledger grow.

    Attributes:
        closed: whether the outcome of the request is recorded, and cannot change.
    """

    def __init__(self, service: Service, record: RequestRecord) -> None:
        self.record = record
        self.closed = False
        self._service = service
        self._refunds = False  # whether a refund is in the queue of writes

    def refund(self, refusal: Refusal) -> None:
        """Refund a request that is refused, and name the refusal in its record."""
        self._refunds = self.record.charged is not None
        refund_request(self._service, self.record)
        self.record.event = refusal.code

    async def enter(self, status: int) -> bool:
        """Record a request that ends with this HTTP status, before the first byte of its response.

        Returns False if the ledger cannot record it. Then STORE_UNAVAILABLE leaves in place of the
        response, and the charge stays.
        """
        try:
            await self._append_entry(status)
        except StoreUnavailable as error:
            log.error("%s", error)
            record = self.record
            record.event, record.answered, record.bits = STORE_UNAVAILABLE.code, 0, 0.0
            self._close(STORE_UNAVAILABLE.status)
            return False
        self._close(status)
        return True

    def record_abort(self) -> None:
        """Record a request that ended without a response (client left, or server stopping)."""
        if self.closed:
            return
        refund_request(self._service, self.record)
        self.record.event = CANCELLED
        if self._in_ledger and not self._service.refusals.add(entry := self.record.entry(0)):
            ledger = self._service.ledger
            appended = self._service.writes.submit(lambda: ledger.append_all([entry]))
            appended.add_done_callback(partial(log_failed_write, "cannot write the ledger entry"))
        self._close(0)

    async def _append_entry(self, status: int) -> None:
        if not self._in_ledger:
            return
        entry = self.record.entry(status)
        if self.record.event == ANSWERED or not self._service.refusals.add(entry):
            await self._service.writes.run_together(self._service.ledger.append_all, entry)
        elif self._refunds:
            with contextlib.suppress(StoreUnavailable):  # the failed refund is in the log
                await self._service.writes.run(_follow)

    @property
    def _in_ledger(self) -> bool:
        return self.record.query and self.record.key is not None

    def _close(self, status: int) -> None:
        self.closed = True
        service, record = self._service, self.record
        if self._in_ledger:
            service.tracing.trace(record, status)
        service.metrics.count(record, seconds=time.perf_counter() - record.started)


def _follow() -> None:
    """Do nothing, behind the writes that were queued before."""
