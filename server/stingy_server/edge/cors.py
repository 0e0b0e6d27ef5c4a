"""Cross-origin requests of browsers: preflights without a key, and headers that let pages read.

Only the origins of the settings get an answer that differs from that of a server without the
setting. A browser sends no key by itself, and this server never allows it to send cookies. So a
page of any origin can do no more here than a program with the same key.
"""

from collections.abc import Iterable, Mapping

from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stingy_server.codec.oip import HEADER_LENGTH
from stingy_server.errors import SECURITY_HEADERS
from stingy_server.web_settings import ANY_ORIGIN

MAX_AGE_S = 600  # seconds that a browser may remember the answer to a preflight
REQUEST_HEADERS = ", ".join(("authorization", "content-type", HEADER_LENGTH.lower())).encode()
# The headers of a response that a page may read.
EXPOSED = ", ".join(
    (
        "x-request-id",
        "x-error-code",
        "retry-after",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
        HEADER_LENGTH.lower(),
    )
).encode()
VARY = (b"vary", b"origin")


class Cors:
    """ASGI middleware around the guard. It decides about browsers, and never about keys.

    A preflight of another origin, or for an unknown address or method, goes on to the guard, which
    refuses it for its lack of a key. So does every request without an origin, unchanged.

    Args:
        origins: the origins of the settings; "*" for any.
        methods: the methods of each path, such as `/v1/predict/{model}`.
    """

    def __init__(
        self, app: ASGIApp, *, origins: Iterable[str], methods: Mapping[str, Iterable[str]]
    ) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)
        self._any = ANY_ORIGIN.encode() in self._origins
        self._routes = [
            (compile_path(path)[0], frozenset(method.upper() for method in allowed))
            for path, allowed in methods.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = self._allowed_origin(scope) if scope["type"] == "http" else None
        if origin is None:
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and (methods := self._preflight(scope)):
            await _answer_preflight(origin, methods, send)
            return

        async def send_readable(message: Message) -> None:
            if message["type"] == "http.response.start":
                readable = (
                    (b"access-control-allow-origin", origin),
                    (b"access-control-expose-headers", EXPOSED),
                    VARY,
                )
                message["headers"] = [*message["headers"], *readable]
            await send(message)

        await self._app(scope, receive, send_readable)

    def _allowed_origin(self, scope: Scope) -> bytes | None:
        """Return the origin to name in the response, or None if the origin is not allowed."""
        given = [value for name, value in scope["headers"] if name == b"origin"]
        if len(given) != 1:
            return None
        if self._any:
            return ANY_ORIGIN.encode()
        return given[0] if given[0] in self._origins else None

    def _preflight(self, scope: Scope) -> frozenset[str]:
        """Return the methods of the path, or none if this is no preflight for one of them."""
        wanted = [v for name, v in scope["headers"] if name == b"access-control-request-method"]
        for pattern, methods in self._routes:
            if pattern.match(scope["path"]):
                known = len(wanted) == 1 and wanted[0].decode("latin-1") in methods
                return methods if known else frozenset()
        return frozenset()


async def _answer_preflight(origin: bytes, methods: Iterable[str], send: Send) -> None:
    headers = [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", ", ".join(sorted(methods)).encode()),
        (b"access-control-allow-headers", REQUEST_HEADERS),
        (b"access-control-max-age", b"%d" % MAX_AGE_S),
        VARY,
        *SECURITY_HEADERS,
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
