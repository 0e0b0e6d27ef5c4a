"""The one layer around every route: a key in, a bounded request in, a record before any byte out.

Denies by default: whatever path is asked, known or not, only the two probes need no key. Whatever
is raised behind it ends here, as a refusal with a fixed sentence. Whatever ends without an answer
is given back.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Iterator

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stingy_server.errors import (
    BAD_REQUEST,
    DRAINING,
    INTERNAL,
    OVERLOADED,
    STORE_UNAVAILABLE,
    TIMED_OUT,
    TOO_LARGE,
    UNAUTHENTICATED,
    UNSUPPORTED_ENCODING,
    Refusal,
    ServiceError,
    error_response,
)
from stingy_server.observability.request_record import RequestRecord
from stingy_server.service import Service
from stingy_server.settings import Settings
from stingy_server.store.base import StoreUnavailable

log = logging.getLogger("stingy")

CANCELLED = "cancelled"  # an event: nobody waits for an answer any more
PROBES = frozenset({"/v2/health/live", "/v2/health/ready"})
MAX_KEY_LENGTH = 256
HYGIENE = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


class Guard:
    """ASGI middleware. What passes has `scope["state"]["record"]`, with the caller's key."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app = app
        self._service = service
        self._settings = service.settings
        self._in_flight = 0
        self._body_bytes = 0  # bytes of bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(secrets.token_hex(8), time.perf_counter())
        scope.setdefault("state", {})["record"] = record
        sender = LedgerSender(self._service, record, scope, send)
        try:
            await self._answered_or_refused(scope, receive, sender)
        except asyncio.CancelledError:
            if not self._service.draining:
                raise
            await sender.refuse(DRAINING)  # its time to drain is over, and the client still there
        finally:
            sender.record_abort()

    async def _answered_or_refused(
        self, scope: Scope, receive: Receive, sender: "LedgerSender"
    ) -> None:
        headers = _headers(scope)
        try:
            probe = scope["path"] in PROBES
            if not probe:
                await self._authenticate(sender.record, headers.get(b"authorization", []))
            _check(headers, self._settings)
            with (
                contextlib.nullcontext() if probe else self._place(),
                self._bounded(receive) as bounded,
            ):
                await self._app(scope, bounded, sender.send)
        except ServiceError as error:
            await sender.refuse(error.refusal)
        except StoreUnavailable as error:
            log.error("%s", error)
            await sender.refuse(STORE_UNAVAILABLE)
        except ClientDisconnect:
            pass  # before its body had come; there is nobody to refuse
        except Exception as error:  # noqa: BLE001  nothing of it may leave, in whatever text
            # The type alone: a message may quote what was computed on.
            log.error("unexpected %s", type(error).__name__)
            await sender.refuse(INTERNAL)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """One of the few places where requests are worked on; without a key nobody takes one.

        What comes before a drain has its place until the end of it, however slow its body is.
        """
        if self._service.draining:
            raise ServiceError(DRAINING)
        if self._in_flight >= self._settings.max_concurrency:
            raise ServiceError(OVERLOADED)
        self._in_flight += 1
        self._service.metrics.in_flight.inc()
        try:
            yield
        finally:
            self._in_flight -= 1
            self._service.metrics.in_flight.dec()

    async def _authenticate(self, record: RequestRecord, given: list[bytes]) -> None:
        scheme, _, secret = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer" or not 0 < len(secret) <= MAX_KEY_LENGTH:
            raise ServiceError(UNAUTHENTICATED)
        record.secret = secret.decode("latin-1")
        record.key = await self._service.key_lookup.lookup(record.secret)
        if record.key is None:
            raise ServiceError(UNAUTHENTICATED)

    @contextlib.contextmanager
    def _bounded(self, receive: Receive) -> Iterator[Receive]:
        """The body as it really comes: no larger and no slower than allowed, whatever it claims;
        and with all others no larger than there is room for, until its request has ended.
        """
        received = 0
        until = asyncio.get_running_loop().time() + self._settings.body_timeout_s
        whole = False

        async def bounded() -> Message:
            nonlocal received, whole
            if whole:  # what comes after the body is the end of the connection: no hurry there
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise ServiceError(TIMED_OUT) from None
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                received += size
                self._body_bytes += size
                whole = not message.get("more_body", False)
                if received > self._settings.max_body_bytes:
                    raise ServiceError(TOO_LARGE)
                if self._body_bytes > max(
                    self._settings.max_held_bytes, received
                ):  # alone, each has room
                    raise ServiceError(OVERLOADED)
            return message

        try:
            yield bounded
        finally:
            self._body_bytes -= received


def _check(headers: dict[bytes, list[bytes]], settings: Settings) -> None:
    if headers.get(b"content-encoding", [b"identity"])[0].lower() != b"identity":
        raise ServiceError(UNSUPPORTED_ENCODING)
    length = headers.get(b"content-length", [b"0"])[0]
    if not length.isdigit():
        raise ServiceError(BAD_REQUEST)
    if len(length) > 18 or int(length) > settings.max_body_bytes:
        raise ServiceError(TOO_LARGE)


def _headers(scope: Scope) -> dict[bytes, list[bytes]]:
    """The values of each header by its name, which ASGI has in lower case."""
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, []).append(value)
    return headers


class LedgerSender:
    """A sender that records the request in the ledger before the first byte leaves."""

    def __init__(self, service: Service, record: RequestRecord, scope: Scope, send: Send) -> None:
        self.record = record
        self._service = service
        self._scope = scope
        self._send = send
        self._started = False
        self._withheld = False
        self._ended = False

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal, unless an answer is on its way."""
        if self._started:
            return
        self._service.give_back(self.record)
        self.record.event = refusal.code
        response = error_response(refusal, self.record.request_id)
        await response(self._scope, _nothing, self.send)

    def record_abort(self) -> None:
        """Record a request that ended without a response (client left, or server stopping)."""
        if self._ended:
            return
        self._service.give_back(self.record)
        self.record.event = CANCELLED
        if self._in_ledger:
            entry = self.record.entry(0)
            appended = self._service.writes.submit(lambda: self._service.ledger.append(entry))
            appended.add_done_callback(_log_if_failed)
        self._count(0)

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
        """Refuse in place of an answer that the ledger cannot record; the charge stays."""
        self._started = self._withheld = self._ended = True
        record = self.record
        record.event, record.answered, record.bits = STORE_UNAVAILABLE.code, 0, 0.0
        self._count(STORE_UNAVAILABLE.status)
        response = error_response(STORE_UNAVAILABLE, record.request_id)
        await response(self._scope, _nothing, self._send_with_headers)

    async def _append_entry(self, status: int) -> None:
        if self._in_ledger:
            entry = self.record.entry(status)
            await self._service.writes.run(lambda: self._service.ledger.append(entry))
        self._ended = True
        self._count(status)

    @property
    def _in_ledger(self) -> bool:
        # Only who has a key can make the ledger grow; metadata is no query.
        return self.record.key is not None and self._scope["method"] == "POST"

    def _count(self, status: int) -> None:
        service, record = self._service, self.record
        if self._in_ledger:
            service.tracing.trace(record, status)
        service.metrics.count(record, seconds=time.perf_counter() - record.started)

    async def _send_with_headers(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = {"x-request-id": self.record.request_id, **self.record.headers}
            message["headers"] = [
                *message["headers"],
                *HYGIENE,
                *((name.encode(), value.encode()) for name, value in extra.items()),
            ]
        await self._send(message)


def _log_if_failed(appended: asyncio.Future[None]) -> None:
    if (error := appended.exception()) is not None:
        log.error("not in the ledger: %s", error)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
