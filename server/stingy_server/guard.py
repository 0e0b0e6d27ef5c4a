"""The one layer in front of every route: a key, a bounded body, and plain headers.

Denies by default: whatever path is asked, known or not, only the two probes need no key.
"""

import logging
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stingy_server.errors import (
    BAD_REQUEST,
    STORE_UNAVAILABLE,
    TOO_LARGE,
    UNAUTHENTICATED,
    UNSUPPORTED_ENCODING,
    ServiceError,
    error_response,
)
from stingy_server.keys import Key, KeyStore, StoreUnavailable

log = logging.getLogger("stingy")

PROBES = frozenset({"/v2/health/live", "/v2/health/ready"})
MAX_KEY_LENGTH = 256


class Guard:
    """ASGI middleware. What passes has `scope["state"]["key"]`, the caller's `Key`."""

    def __init__(self, app: ASGIApp, *, keys: KeyStore, max_body_bytes: int) -> None:
        self._app = app
        self._keys = keys
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-store"
            await send(message)

        headers = Headers(scope=scope)
        try:
            if scope["path"] not in PROBES:
                state["key"] = self._authenticate(headers)
            self._check_body(headers)
        except ServiceError as error:
            await error_response(error.refusal, request_id)(scope, receive, send_marked)
            return
        await self._app(scope, self._bounded(receive), send_marked)

    def _authenticate(self, headers: Headers) -> Key:
        given = headers.getlist("authorization")
        scheme, _, text = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not 0 < len(text) <= MAX_KEY_LENGTH:
            raise ServiceError(UNAUTHENTICATED)
        try:
            key = self._keys.authenticate(text)
        except StoreUnavailable as error:
            log.error("%s", error)
            raise ServiceError(STORE_UNAVAILABLE) from None
        if key is None:
            raise ServiceError(UNAUTHENTICATED)
        return key

    def _check_body(self, headers: Headers) -> None:
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ServiceError(UNSUPPORTED_ENCODING)
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise ServiceError(BAD_REQUEST)
        if len(length) > 18 or int(length) > self._max_body_bytes:
            raise ServiceError(TOO_LARGE)

    def _bounded(self, receive: Receive) -> Receive:
        """The body as it really comes, whatever its Content-Length said."""
        left = self._max_body_bytes

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    raise ServiceError(TOO_LARGE)
            return message

        return bounded
