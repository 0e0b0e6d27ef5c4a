"""The calls of gRPC: the key first, then the message, then the same service as for HTTP.

It denies by default. Every rpc, known or not, needs a key, except the two probes. A call ends with
an answer or with a refusal of the error table. The ledger has it before the first byte leaves.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc

from stingy_server.admission import Place
from stingy_server.edge.caller_check import authenticate, find_refusal
from stingy_server.edge.request_books import RequestBooks
from stingy_server.errors import (
    BAD_REQUEST,
    DRAINING,
    ERROR_CODE,
    INTERNAL,
    STORE_UNAVAILABLE,
    TIMED_OUT,
    TOO_LARGE,
    UNKNOWN_RPC,
    Refusal,
    ServiceError,
    retry_after_s,
)
from stingy_server.observability.request_record import RequestRecord
from stingy_server.rpc.arrivals import Arrivals
from stingy_server.rpc.methods import Query, Rpc
from stingy_server.rpc.statuses import STATUS
from stingy_server.service import Service

CANCELLED_S = 0.5  # in which gRPC reports that a client has left

Metadata = tuple[tuple[str, str], ...]


class Reply(NamedTuple):
    """The end of a call: the bytes of its response, or its refusal."""

    body: bytes
    refusal: Refusal | None
    metadata: Metadata


async def refuse_unknown(query: Query) -> bytes:
    """Refuse a call of an rpc that this server does not have."""
    raise ServiceError(UNKNOWN_RPC)


class Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The calls of one server.

    An rpc of one message is handled as one of a stream of messages, which is the same on the wire.
    So the message is read when the handler wants it, after the key was checked.

    Args:
        rpcs: the rpcs by their paths.

    Attributes:
        running: the calls that have not ended.
    """

    def __init__(self, service: Service, rpcs: Mapping[str, Rpc]) -> None:
        self.running: set[asyncio.Task[Reply]] = set()
        self._service = service
        self._arrivals = Arrivals(service.settings)
        self._handlers = {path: self._handler(rpc) for path, rpc in rpcs.items()}
        self._unknown = self._handler(Rpc(refuse_unknown))

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a call."""
        return self._handlers.get(handler_call_details.method, self._unknown)

    def _handler(self, rpc: Rpc) -> Any:
        async def handle(_: object, context: Any) -> bytes:
            return await self._handle(rpc, context)

        return grpc.stream_unary_rpc_method_handler(handle)  # messages are left as bytes

    async def _handle(self, rpc: Rpc, context: Any) -> bytes:
        call = Call(self._service, rpc, context, arrivals=self._arrivals)
        # In a task of its own, because gRPC cancels this one when the client leaves.
        task = asyncio.create_task(call.run())
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        try:
            reply = await asyncio.shield(task)
        except asyncio.CancelledError:
            if not call.arrived:
                call.left = True
                task.cancel()
            raise
        if reply.refusal is None:
            context.set_trailing_metadata(reply.metadata)
            return reply.body
        await context.abort(STATUS[reply.refusal.code], reply.refusal.message, reply.metadata)
        raise AssertionError  # `abort` has raised an exception


class Call:
    """One call.

    Attributes:
        arrived: whether the whole message has come. Then the call goes on if the client leaves, as
            over HTTP: the answer is computed, charged and recorded.
        left: whether the client has left before.
    """

    def __init__(self, service: Service, rpc: Rpc, context: Any, *, arrivals: Arrivals) -> None:
        self.arrived = self.left = False
        self._service = service
        self._rpc = rpc
        self._context = context
        self._arrivals = arrivals
        self._record = RequestRecord(secrets.token_hex(8), time.perf_counter(), query=rpc.charges)

    async def run(self) -> Reply:
        """Handle the call, whatever happens, and record how it ended."""
        books = RequestBooks(self._service, self._record)
        try:
            return await self._answer(books)
        except asyncio.CancelledError:
            if self.left or not self._service.draining:
                raise
            return await self._refuse(books, DRAINING)  # the drain's time is over
        finally:
            books.record_abort()

    async def _answer(self, books: RequestBooks) -> Reply:
        service, record, rpc = self._service, self._record, self._rpc
        try:
            if not rpc.needs_key:
                return await self._send(books, await rpc.answer(Query(service, record, b"")))
            await authenticate(service, record, self._authorization(), charges=rpc.charges)
            place = record.place = await service.admit(record, query=rpc.charges, declared=0)
            try:
                query = Query(service, record, await self._receive(place))
                return await self._send(books, await rpc.answer(query))
            finally:
                service.leave(place)
        except Exception as error:  # noqa: BLE001  no text of any error may leave
            return await self._refuse(books, await find_refusal(service, record, error))

    def _authorization(self) -> bytes:
        """Return the authorization of the call; empty if there is none, or more than one."""
        values = [v for name, v in self._context.invocation_metadata() if name == "authorization"]
        return values[0].encode(errors="replace") if len(values) == 1 else b""

    async def _receive(self, place: Place) -> bytes:
        """Receive the message.

        Raises:
            ServiceError: timed_out; bad_request, if there is none; too_large; overloaded, if there
                is no memory for it.
        """
        try:
            async with (
                asyncio.timeout(self._service.settings.body_timeout_s),
                self._arrivals.room(self._record.caller),
            ):
                message = await self._context.read()
        except TimeoutError:
            raise ServiceError(TIMED_OUT) from None
        if not isinstance(message, bytes):
            # The stream has ended. If the client has left, or if its message is too large for gRPC,
            # gRPC now cancels this call, and sends a status of its own.
            await asyncio.sleep(CANCELLED_S)
            raise ServiceError(BAD_REQUEST)
        self.arrived = True
        if len(message) > self._service.settings.max_body_bytes:
            raise ServiceError(TOO_LARGE, limit=self._service.settings.max_body_bytes)
        if message:
            place.grow(len(message))
        return message

    async def _send(self, books: RequestBooks, body: bytes) -> Reply:
        if await books.enter(200):
            return Reply(body, None, self._metadata())
        return self._refusal(STORE_UNAVAILABLE)

    async def _refuse(self, books: RequestBooks, refusal: Refusal) -> Reply:
        if books.closed:  # a fault after the outcome was recorded
            return self._refusal(INTERNAL)
        books.refund(refusal)
        recorded = await books.enter(refusal.status)
        return self._refusal(refusal if recorded else STORE_UNAVAILABLE)

    def _refusal(self, refusal: Refusal) -> Reply:
        metadata = (*self._metadata(), (ERROR_CODE.lower(), refusal.code))
        if (seconds := retry_after_s(refusal)) is not None:
            metadata += (("retry-after", str(seconds)),)
        return Reply(b"", refusal, metadata)

    def _metadata(self) -> Metadata:
        metadata: Metadata = (("x-request-id", self._record.request_id),)
        if (rate := self._record.rate) is not None:
            metadata += (
                ("ratelimit-limit", str(rate.limit)),
                ("ratelimit-remaining", str(rate.remaining)),
                ("ratelimit-reset", str(rate.reset_s)),
            )
        return metadata
