"""The guard of a page on loopback: the ASGI layer that decides who may send which request.

It denies by default. A request needs the page's own host, then a token or a cookie. A request
that may change something also needs the session's token against forged requests. Every response,
refusals included, has headers that keep other pages out and load nothing from elsewhere.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs, quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stingy_server.loopback.access import TOKEN_LIFE_S, Access, Session, is_csrf_token

log = logging.getLogger("stingy")

CSRF_HEADER = "X-CSRF-Token"
SAFE_METHODS = frozenset({"GET", "HEAD"})
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        b"object-src 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_SET_HERE = frozenset(name for name, _ in HEADERS)


@dataclass(frozen=True)
class _Refusal:
    status: int
    message: str


_WRONG_HOST = _Refusal(403, "Expected the host that the command printed, got another.")
_FORGED = _Refusal(403, "Expected a request of this page, got one without its token.")
_TOO_LARGE = _Refusal(413, "Expected a smaller body, got more than {limit} bytes.")
_NO_SESSION = _Refusal(
    401,
    "Expected the address that the command printed, got one without a valid token. "
    "A token opens the page once, within {seconds:g} seconds. {another}",
)
_FAILED = _Refusal(500, "Expected an answer, got a fault; the terminal shows it.")


class LoopbackGuard:
    """ASGI middleware around a page.

    The application finds the session's token against forgery in `scope["state"]["csrf"]`. It must
    put it into the page, and the page sends it back in the header `X-CSRF-Token`.

    Args:
        app: the page. It gets a request only with a session, and the body in one message.
        access: the secrets.
        port: the port that it listens on.
        max_body_bytes: of a request.
        another: a sentence that names the way to another token.
    """

    def __init__(
        self, app: ASGIApp, *, access: Access, port: int, max_body_bytes: int, another: str
    ) -> None:
        self._app = app
        self._access = access
        self._max_body_bytes = max_body_bytes
        self._another = another
        self._hosts = frozenset(f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        sender = _Sender(send)
        try:
            await self._handle(scope, receive, sender)
        except Exception:
            log.exception("a request of the page failed")
            if not sender.started:
                await sender.refuse(_FAILED)

    async def _handle(self, scope: Scope, receive: Receive, sender: "_Sender") -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        host = _values(headers, b"host")
        if len(host) != 1 or host[0] not in self._hosts:
            await sender.refuse(_WRONG_HOST)
            return
        session = self._session(headers)
        if scope["method"] == "GET" and (token := _token(scope)) is not None:
            opened = None if session else self._access.redeem(token)
            if session or opened:
                await sender.enter(scope["path"], self._cookie(opened))
                return
        if session is None:
            message = _NO_SESSION.message.format(seconds=TOKEN_LIFE_S, another=self._another)
            await sender.refuse(_Refusal(_NO_SESSION.status, message))
            return
        if scope["method"] not in SAFE_METHODS and not _is_own(headers, host[0], session):
            await sender.refuse(_FORGED)
            return
        body = await _read_body(receive, self._max_body_bytes)
        if body is None:
            message = _TOO_LARGE.message.format(limit=self._max_body_bytes)
            await sender.refuse(_Refusal(_TOO_LARGE.status, message))
            return
        scope.setdefault("state", {})["csrf"] = session.csrf
        await self._app(scope, _Replay(body, receive), sender)

    def _session(self, headers: Iterable[tuple[bytes, bytes]]) -> Session | None:
        """Return the session of the request's cookie. Two cookies of its name are none."""
        pairs = [
            part.strip().partition("=")
            for value in _values(headers, b"cookie")
            for part in value.decode("latin-1").split(";")
        ]
        found = [value for name, _, value in pairs if name == self._access.cookie_name]
        return self._access.find(found[0]) if len(found) == 1 else None

    def _cookie(self, session: Session | None) -> bytes | None:
        if session is None:
            return None
        text = f"{self._access.cookie_name}={session.cookie}; Path=/; HttpOnly; SameSite=Strict"
        return text.encode()


class _Sender:
    """The way of a response. It adds the headers of every page, and no response goes without."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            own = [pair for pair in message.get("headers", ()) if pair[0].lower() not in _SET_HERE]
            message = {**message, "headers": [*own, *HEADERS]}
        await self._send(message)

    async def refuse(self, refusal: _Refusal) -> None:
        """Send one of the fixed sentences."""
        await self._answer(refusal.status, refusal.message, ())

    async def enter(self, path: str, cookie: bytes | None) -> None:
        """Set the cookie, and let the browser load the page without the token.

        A redirect would not do: a browser that follows it from a link of another site, such as a
        terminal in a browser, leaves a cookie with SameSite=Strict out.
        """
        more = [(b"refresh", f"0; url={_quoted(path)}".encode())]
        if cookie is not None:
            more.append((b"set-cookie", cookie))
        await self._answer(200, "Opening the page.", more)

    async def _answer(self, status: int, text: str, more: Iterable[tuple[bytes, bytes]]) -> None:
        body = f"{text}\n".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            *more,
        ]
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


class _Replay:
    """The body that was read, in one message, and then the end of the connection."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """Read the body. Return None as soon as it is over the limit, whatever length it declares."""
    parts: list[bytes] = []
    left = limit
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the client has left
            return b"".join(parts)
        parts.append(message.get("body", b""))
        left -= len(parts[-1])
        if left < 0:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _is_own(headers: Iterable[tuple[bytes, bytes]], host: bytes, session: Session) -> bool:
    """Check that a page of this origin sent a request, as far as its headers say."""
    headers = list(headers)
    tokens = _values(headers, CSRF_HEADER.lower().encode())
    if len(tokens) != 1 or not is_csrf_token(session, tokens[0].decode("latin-1")):
        return False
    sites, origins = _values(headers, b"sec-fetch-site"), _values(headers, b"origin")
    return all(site == b"same-origin" for site in sites) and all(
        origin == b"http://" + host for origin in origins
    )


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for each, value in headers if each == name]


def _token(scope: Scope) -> str | None:
    """Return the token in the address; None without one."""
    found = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
    return found[0] if len(found) == 1 else None


def _quoted(path: str) -> str:
    """Return a path of this origin, for the header `refresh`."""
    return "/" + quote(path.lstrip("/"))
