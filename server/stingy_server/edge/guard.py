"""The guard: the ASGI layer around every route, which checks the key and bounds the request.

It denies by default. Every path, known or not, needs a key, except the three probes. It turns every
exception behind it into a refusal with a fixed sentence. It refunds a request without an answer.
The record is in the ledger before the first byte of the response leaves.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stingy_server.admission import Place
from stingy_server.codec.oip import HEADER_LENGTH
from stingy_server.edge.caller_check import authenticate, find_refusal
from stingy_server.edge.hot_path import HotPath
from stingy_server.edge.ledger_sender import LedgerSender
from stingy_server.edge.oip_routes import REPOSITORY_INDEX
from stingy_server.errors import (
    BAD_REQUEST,
    DRAINING,
    TIMED_OUT,
    TOO_LARGE,
    UNSUPPORTED_ENCODING,
    ServiceError,
)
from stingy_server.observability.request_record import RequestRecord
from stingy_server.process.http_exchange import BODY_ARRIVED
from stingy_server.service import Service
from stingy_server.settings import Settings

PROBES = frozenset({"/v2/health/live", "/v2/health/ready", "/ping"})
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
        raise ServiceError(TOO_LARGE, limit=settings.max_body_bytes)
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
            # A POST to an unknown address is recorded as a query too.
            query = record.query = route is not None or (
                scope["method"] == "POST" and scope["path"] != REPOSITORY_INDEX
            )
            model = None if route is None else route.model
            await authenticate(
                service, record, head.authorization, charges=route is not None, model=model
            )
            declared = check_body(head, self._settings)
            place = record.place = await service.admit(record, query=query, declared=declared)
            try:
                arrived = scope.get("extensions", {}).get(BODY_ARRIVED, _unknown)
                limited = LimitedBody(receive, place, self._settings, arrived=arrived)
                if route is None:
                    await self._app(scope, limited.receive, sender.send)
                    return
                encoded = await self._hot_path.answer(
                    route,
                    record,
                    limited.receive,
                    json_length=head.json_length,
                    headers=scope["headers"],
                )
                await sender.answer(encoded)
            finally:
                service.leave(place)
        except ClientDisconnect:
            pass  # before the whole body arrived, so there is no client to refuse
        except Exception as error:  # noqa: BLE001  no text of any error may leave
            await sender.refuse(await find_refusal(service, record, error))


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
                raise ServiceError(TOO_LARGE, limit=self._max_bytes)
            if self._received > self._place.nbytes:
                self._place.grow(self._received - self._place.nbytes)
        return message


def _without_text(send: Send) -> Send:
    """Leave the traceback out of the message that the start or the end failed."""

    async def send_short(message: Message) -> None:
        await send({"type": message["type"]})

    return send_short
