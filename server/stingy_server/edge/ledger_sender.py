"""The sender of a response: the ledger entry comes first, then the first byte."""

import asyncio
import contextlib
import logging
import time

from starlette.types import Message, Scope, Send

from stingy_server.codec.oip_answers import Encoded
from stingy_server.errors import (
    SECURITY_HEADERS,
    STORE_UNAVAILABLE,
    Refusal,
    error_form,
    error_response,
)
from stingy_server.observability.request_record import RequestRecord
from stingy_server.service import Service
from stingy_server.store.base import StoreUnavailable

log = logging.getLogger("stingy")

ANSWERED = "answer"  # the event of a request with an answer
CANCELLED = "cancelled"  # the event of a request that ended without a response


class LedgerSender:
    """A sender that records the request in the ledger before the first byte leaves."""

    def __init__(self, service: Service, record: RequestRecord, scope: Scope, send: Send) -> None:
        self.record = record
        self._service = service
        self._scope = scope
        self._send = send
        self._started = False
        self._withheld = False
        self._refunds = False  # whether a refund is in the queue of writes
        self._ended = False

    async def refuse(self, refusal: Refusal) -> None:
        """Send a refusal and refund the request, unless a response has started."""
        if self._started:
            return
        self._refunds = self.record.charged is not None
        self._service.refund(self.record)
        self.record.event = refusal.code
        await self._respond(refusal, self.send)

    def record_abort(self) -> None:
        """Record a request that ended without a response (client left, or server stopping)."""
        if self._ended:
            return
        self._service.refund(self.record)
        self.record.event = CANCELLED
        if self._in_ledger and not self._service.refusals.add(entry := self.record.entry(0)):
            ledger = self._service.ledger
            appended = self._service.writes.submit(lambda: ledger.append_all([entry]))
            appended.add_done_callback(_log_if_failed)
        self._count(0)

    async def answer(self, encoded: Encoded) -> None:
        """Send an answer, as `send` does."""
        headers = [*encoded.headers, (b"content-length", b"%d" % len(encoded.body))]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.send({"type": "http.response.body", "body": encoded.body})

    async def send(self, message: Message) -> None:
        if message["type"] != "http.response.start":
            if not self._withheld:
                await self._send(message)
            return
        try:
            await self._append_entry(message["status"])
        except StoreUnavailable as error:
            log.error("%s", error)
            await self._withhold()
        else:
            self._started = True
            await self._send_with_headers(message)

    async def _withhold(self) -> None:
        """Send a refusal in place of an answer that the ledger cannot record. The charge stays."""
        self._started = self._withheld = self._ended = True
        record = self.record
        record.event, record.answered, record.bits = STORE_UNAVAILABLE.code, 0, 0.0
        self._count(STORE_UNAVAILABLE.status)
        await self._respond(STORE_UNAVAILABLE, self._send_with_headers)

    async def _respond(self, refusal: Refusal, send: Send) -> None:
        form = error_form(self._scope["path"])
        response = error_response(refusal, self.record.request_id, form=form)
        await response(self._scope, _disconnect, send)

    async def _append_entry(self, status: int) -> None:
        if self._in_ledger:
            entry = self.record.entry(status)
            if self.record.event == ANSWERED or not self._service.refusals.add(entry):
                await self._service.writes.run_together(self._service.ledger.append_all, entry)
            elif self._refunds:
                with contextlib.suppress(StoreUnavailable):  # the failed refund is in the log
                    await self._service.writes.run(_follow)
        self._ended = True
        self._count(status)

    @property
    def _in_ledger(self) -> bool:
        # Of requests, only a query with a key makes the ledger grow.
        return self.record.key is not None and self.record.query

    def _count(self, status: int) -> None:
        service, record = self._service, self.record
        if self._in_ledger:
            service.tracing.trace(record, status)
        service.metrics.count(record, seconds=time.perf_counter() - record.started)

    async def _send_with_headers(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *SECURITY_HEADERS, *self._own_headers()]
        await self._send(message)

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that the record gives."""
        headers = [(b"x-request-id", self.record.request_id.encode())]
        if (rate := self.record.rate) is not None:
            headers += [
                (b"ratelimit-limit", b"%d" % rate.limit),
                (b"ratelimit-remaining", b"%d" % rate.remaining),
                (b"ratelimit-reset", b"%d" % rate.reset_s),
            ]
        return headers


def _follow() -> None:
    """Do nothing, behind the writes that were queued before."""


def _log_if_failed(appended: asyncio.Future[list[None]]) -> None:
    if (error := appended.exception()) is not None:
        log.error("cannot write the ledger entry: %s", error)


async def _disconnect() -> Message:
    return {"type": "http.disconnect"}
