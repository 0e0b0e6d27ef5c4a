"""The guard: the ASGI layer around every route, which checks the key and bounds the request.

It denies by default. Every path, known or not, needs a key, except the two probes. It turns every
exception behind it into a refusal with a fixed sentence. It refunds a request without an answer.
The record is in the ledger before the first byte of the response leaves.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stingy_server.admission import Place
from stingy_server.codec.oip import HEADER_LENGTH
from stingy_server.edge.hot_path import HotPath
from stingy_server.edge.ledger_sender import LedgerSender
from stingy_server.errors import (
    BAD_REQUEST,
    DRAINING,
    INTERNAL,
    STORE_UNAVAILABLE,
    TIMED_OUT,
    TOO_LARGE,
    UNAUTHENTICATED,
    UNSUPPORTED_ENCODING,
    Refusal,
    ServiceError,
)
from stingy_server.observability.request_record import RequestRecord
from stingy_server.process.http_exchange import BODY_ARRIVED
from stingy_server.service import Service
from stingy_server.settings import Settings
from stingy_server.store.base import StoreUnavailable

log = logging.getLogger("stingy")

PROBES = frozenset({"/v2/health/live", "/v2/health/ready"})
MAX_KEY_LENGTH = 256
JSON_LENGTH = HEADER_LENGTH.lower().encode()


class Head(NamedTuple):
    """The headers that the guard reads.

    Attributes:
        authorization: empty if there is none, or more than one.
        length: the declared length of the body.
        compressed: whether the body has a coding.
        json_length: the length of a JSON head in the body.
    """

    authorization: bytes
    length: bytes
    compressed: bool
    json_length: bytes | None


def read_head(headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """Read the headers of a request. ASGI gives their names in lower case."""
    authorization: bytes | None = None
    length, compressed, json_length = b"0", False, None
    for name, value in headers:
        if name == b"authorization":
            authorization = value if authorization is None else b""
        elif name == b"content-length":
            length = value
        elif name == JSON_LENGTH:
            json_length = value
        elif name == b"content-encoding" and value.lower() != b"identity":
            compressed = True
    return Head(authorization or b"", length, compressed, json_length)


def check_body(head: Head, settings: Settings) -> int:
    """Check the headers of a body, and return the bytes that they declare.

    Raises:
        ServiceError: unsupported_encoding, bad_request or too_large.
    """
    if head.compressed:
        raise ServiceError(UNSUPPORTED_ENCODING)
    if not head.length.isdigit():
        raise ServiceError(BAD_REQUEST)
    declared = int(head.length[:18])
    if len(head.length) > 18 or declared > settings.max_body_bytes:
        raise ServiceError(TOO_LARGE)
    return declared


def _unknown() -> bool:
    """Return that a body may still have to come, for a server without the extension."""
    return False


class Guard:
    """ASGI middleware around an application and its hot path.

    It puts the `RequestRecord` of a request into `scope["state"]["record"]`.
    """

    def __init__(self, app: ASGIApp, *, service: Service, hot_path: HotPath) -> None:
        self._app = app
        self._service = service
        self._hot_path = hot_path
        self._settings = service.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, _without_text(send))
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
        record, service = sender.record, self._service
        head = read_head(scope["headers"])
        try:
            if scope["path"] in PROBES:
                check_body(head, self._settings)
                await self._app(scope, receive, sender.send)
                return
            route = self._hot_path.find(scope["method"], scope["path"])
            await self._authenticate(record, head, charges=route is not None)
            declared = check_body(head, self._settings)
            query = scope["method"] == "POST"
            place = record.place = await service.admit(record, query=query, declared=declared)
            try:
                arrived = scope.get("extensions", {}).get(BODY_ARRIVED, _unknown)
                limited = LimitedBody(receive, place, self._settings, arrived=arrived)
                if route is None:
                    await self._app(scope, limited.receive, sender.send)
                    return
                encoded = await self._hot_path.answer(
                    route, record, limited.receive, json_length=head.json_length
                )
                await sender.answer(encoded)
            finally:
                service.leave(place)
        except ServiceError as error:
            await self._refuse(sender, error.refusal)
        except StoreUnavailable as error:
            log.error("%s", error)
            await sender.refuse(STORE_UNAVAILABLE)
        except ClientDisconnect:
            pass  # before the whole body arrived, so there is no client to refuse
        except Exception as error:  # noqa: BLE001  no text of any error may leave
            # Log only the type, because a message may quote the data.
            log.error("unexpected %s", type(error).__name__)
            await sender.refuse(INTERNAL)

    async def _refuse(self, sender: LedgerSender, refusal: Refusal) -> None:
        """Refuse a request. One whose key was revoked before a charge found out gets 401."""
        record = sender.record
        if record.key_unchecked:
            try:
                if await self._service.look_up_caller(record.secret) is None:
                    refusal = UNAUTHENTICATED
            except StoreUnavailable:
                refusal = STORE_UNAVAILABLE
        await sender.refuse(refusal)

    async def _authenticate(self, record: RequestRecord, head: Head, *, charges: bool) -> None:
        scheme, _, secret = head.authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not 0 < len(secret) <= MAX_KEY_LENGTH:
            raise ServiceError(UNAUTHENTICATED)
        record.secret = secret.decode("latin-1")
        caller = self._service.known_caller(record.secret) if charges else None
        record.key_unchecked = caller is not None
        if caller is None:
            caller = await self._service.look_up_caller(record.secret)
        if caller is None:
            raise ServiceError(UNAUTHENTICATED)
        record.key, record.spent = caller.key, caller.spent


class LimitedBody:
    """A body under three limits: its size, the time to receive it, and the memory of its place.

    The received bytes count, not the `content-length` header. They use memory until the request
    has ended.

    Args:
        arrived: returns whether the whole body has come, so that nothing waits for it.
    """

    def __init__(
        self,
        receive: Receive,
        place: Place,
        settings: Settings,
        *,
        arrived: Callable[[], bool],
    ) -> None:
        self._receive = receive
        self._place = place
        self._max_bytes = settings.max_body_bytes
        self._deadline = asyncio.get_running_loop().time() + settings.body_timeout_s
        self._arrived = arrived
        self._received = 0
        self._complete = False

    async def receive(self) -> Message:
        """Receive the next message.

        Raises:
            ServiceError: timed_out, too_large, or overloaded if there is no memory for it.
        """
        if self._complete:  # only the end of the connection can follow, so there is no timeout
            return await self._receive()
        if self._arrived():
            message = await self._receive()
        else:
            try:
                async with asyncio.timeout_at(self._deadline):
                    message = await self._receive()
            except TimeoutError:
                raise ServiceError(TIMED_OUT) from None
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._received > self._max_bytes:
                raise ServiceError(TOO_LARGE)
            if self._received > self._place.nbytes:
                self._place.grow(self._received - self._place.nbytes)
        return message


def _without_text(send: Send) -> Send:
    """Leave the traceback out of the message that the start or the end failed."""

    async def send_short(message: Message) -> None:
        await send({"type": message["type"]})

    return send_short
