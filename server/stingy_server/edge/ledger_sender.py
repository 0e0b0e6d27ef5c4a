"""The sender of a response over HTTP: the ledger entry comes first, then the first byte."""

from dataclasses import replace

from starlette.types import Message, Scope, Send

from stingy_server.codec.oip_answers import Encoded
from stingy_server.edge.request_books import RequestBooks
from stingy_server.errors import (
    OVERLOADED,
    SECURITY_HEADERS,
    STORE_UNAVAILABLE,
    Refusal,
    error_form,
    error_response,
)
from stingy_server.observability.request_record import RequestRecord
from stingy_server.service import Service


class LedgerSender(RequestBooks):
    """A sender that records the request in the ledger before the first byte leaves."""

    def __init__(self, service: Service, record: RequestRecord, scope: Scope, send: Send) -> None:
        super().__init__(service, record)
        self._scope = scope
        self._send = send
        self._withheld = False

    async def refuse(self, refusal: Refusal) -> None:
        """Send a refusal and refund the request, unless a response has started."""
        if self.closed:
            return
        if refusal.code == OVERLOADED.code:
            refusal = replace(refusal, status=self._service.settings.overload_status)
        self.refund(refusal)
        await self._respond(refusal, self.send)

    async def answer(self, encoded: Encoded) -> None:
        """Send an answer, as `send` does."""
        headers = [*encoded.headers, (b"content-length", b"%d" % len(encoded.body))]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.send({"type": "http.response.body", "body": encoded.body})

    async def send(self, message: Message) -> None:
        if message["type"] != "http.response.start":
            if not self._withheld:
                await self._send(message)
        elif await self.enter(message["status"]):
            await self._send_with_headers(message)
        else:
            self._withheld = True
            await self._respond(STORE_UNAVAILABLE, self._send_with_headers)

    async def _respond(self, refusal: Refusal, send: Send) -> None:
        form = error_form(self._scope["path"])
        response = error_response(refusal, self.record.request_id, form=form)
        await response(self._scope, _disconnect, send)

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


async def _disconnect() -> Message:
    return {"type": "http.disconnect"}
