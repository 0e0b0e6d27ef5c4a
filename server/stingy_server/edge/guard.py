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

from stingy_server.edge.ledger_sender import LedgerSender
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
    ServiceError,
)
from stingy_server.observability.request_record import RequestRecord
from stingy_server.service import Service
from stingy_server.settings import Settings
from stingy_server.store.base import StoreUnavailable

log = logging.getLogger("stingy")

PROBES = frozenset({"/v2/health/live", "/v2/health/ready"})
MAX_KEY_LENGTH = 256


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

    async def _handle(self, scope: Scope, receive: Receive, sender: LedgerSender) -> None:
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
    encodings = headers.get(b"content-encoding")
    if encodings is not None and any(value.lower() != b"identity" for value in encodings):
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
