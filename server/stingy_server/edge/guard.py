"""The guard: the ASGI layer around every route, which checks the key and bounds the request.

It denies by default. Every path, known or not, needs a key, except the two probes. It turns every
exception behind it into a refusal with a fixed sentence. It refunds a request without an answer.
The record is in the ledger before the first byte of the response leaves.
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

CANCELLED = "cancelled"  # the event of a request that ended without a response
PROBES = frozenset({"/v2/health/live", "/v2/health/ready"})
MAX_KEY_LENGTH = 256
SECURITY_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


class Guard:
    """ASGI middleware. It puts the `RequestRecord` of a request into `scope["state"]["record"]`."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app = app
        self._service = service
        self._settings = service.settings
        self._in_flight = 0
        self._body_bytes = 0  # bytes of all bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(secrets.token_hex(8), time.perf_counter())
        scope.setdefault("state", {})["record"] = record
        sender = LedgerSender(self._service, record, scope, send)
        try:
            await self._handle(scope, receive, sender)
        except asyncio.CancelledError:
            if not self._service.draining:
                raise
            await sender.refuse(DRAINING)  # the drain's time is over, and the client still waits
        finally:
            sender.record_abort()

    async def _handle(self, scope: Scope, receive: Receive, sender: "LedgerSender") -> None:
        headers = _header_values(scope)
        try:
            probe = scope["path"] in PROBES
            if not probe:
                await self._authenticate(sender.record, headers.get(b"authorization", []))
            _check_headers(headers, self._settings)
            with (
                contextlib.nullcontext() if probe else self._take_place(),
                self._limit_body(receive) as limited_receive,
            ):
                await self._app(scope, limited_receive, sender.send)
        except ServiceError as error:
            await sender.refuse(error.refusal)
        except StoreUnavailable as error:
            log.error("%s", error)
            await sender.refuse(STORE_UNAVAILABLE)
        except ClientDisconnect:
            pass  # before the whole body arrived, so there is no client to refuse
        except Exception as error:  # noqa: BLE001  no text of any error may leave
            # Log only the type, because a message may quote the data.
            log.error("unexpected %s", type(error).__name__)
            await sender.refuse(INTERNAL)

    @contextlib.contextmanager
    def _take_place(self) -> Iterator[None]:
        """Take one of the `max_concurrency` places. The caller has authenticated the request.

        A request that arrives before a drain keeps its place until it ends, even if its body is
        slow.

        Raises:
            ServiceError: draining, or overloaded, if no place is free.
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

    async def _authenticate(self, record: RequestRecord, values: list[bytes]) -> None:
        scheme, _, secret = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer" or not 0 < len(secret) <= MAX_KEY_LENGTH:
            raise ServiceError(UNAUTHENTICATED)
        record.secret = secret.decode("latin-1")
        record.key = await self._service.key_lookup.lookup(record.secret)
        if record.key is None:
            raise ServiceError(UNAUTHENTICATED)

    @contextlib.contextmanager
    def _limit_body(self, receive: Receive) -> Iterator[Receive]:
        """Enforce body size, body timeout and the process-wide limit on body memory.

        The received bytes count, not the `content-length` header. They use body memory until the
        request has ended.
        """
        received = 0
        deadline = asyncio.get_running_loop().time() + self._settings.body_timeout_s
        complete = False

        async def limited_receive() -> Message:
            nonlocal received, complete
            if complete:  # only the end of the connection can follow, so there is no timeout
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise ServiceError(TIMED_OUT) from None
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                received += size
                self._body_bytes += size
                complete = not message.get("more_body", False)
                if received > self._settings.max_body_bytes:
                    raise ServiceError(TOO_LARGE)
                # A body that is alone in memory always fits.
                if self._body_bytes > max(self._settings.max_held_bytes, received):
                    raise ServiceError(OVERLOADED)
            return message

        try:
            yield limited_receive
        finally:
            self._body_bytes -= received


def _check_headers(headers: dict[bytes, list[bytes]], settings: Settings) -> None:
    if headers.get(b"content-encoding", [b"identity"])[0].lower() != b"identity":
        raise ServiceError(UNSUPPORTED_ENCODING)
    length = headers.get(b"content-length", [b"0"])[0]
    if not length.isdigit():
        raise ServiceError(BAD_REQUEST)
    if len(length) > 18 or int(length) > settings.max_body_bytes:
        raise ServiceError(TOO_LARGE)


def _header_values(scope: Scope) -> dict[bytes, list[bytes]]:
    """Collect the values of each header by name. ASGI gives names in lower case."""
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
        """Send a refusal and refund the request, unless a response has started."""
        if self._started:
            return
        self._service.refund(self.record)
        self.record.event = refusal.code
        response = error_response(refusal, self.record.request_id)
        await response(self._scope, _disconnect, self.send)

    def record_abort(self) -> None:
        """Record a request that ended without a response (client left, or server stopping)."""
        if self._ended:
            return
        self._service.refund(self.record)
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
        """Send a refusal in place of an answer that the ledger cannot record. The charge stays."""
        self._started = self._withheld = self._ended = True
        record = self.record
        record.event, record.answered, record.bits = STORE_UNAVAILABLE.code, 0, 0.0
        self._count(STORE_UNAVAILABLE.status)
        response = error_response(STORE_UNAVAILABLE, record.request_id)
        await response(self._scope, _disconnect, self._send_with_headers)

    async def _append_entry(self, status: int) -> None:
        if self._in_ledger:
            entry = self.record.entry(status)
            await self._service.writes.run(lambda: self._service.ledger.append(entry))
        self._ended = True
        self._count(status)

    @property
    def _in_ledger(self) -> bool:
        # Of requests, only a POST with a key makes the ledger grow: metadata is not a query.
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
                *SECURITY_HEADERS,
                *((name.encode(), value.encode()) for name, value in extra.items()),
            ]
        await self._send(message)


def _log_if_failed(appended: asyncio.Future[None]) -> None:
    if (error := appended.exception()) is not None:
        log.error("cannot write the ledger entry: %s", error)


async def _disconnect() -> Message:
    return {"type": "http.disconnect"}
