"""The secrets of a page on loopback: a token that opens it once, and the sessions that it opened.

Invariant: every secret is random and in memory alone. The time of a comparison shows nothing.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest

TOKEN_LIFE_S = 60.0
MAX_SESSIONS = 16  # the oldest ends when one more begins


@dataclass(frozen=True)
class Session:
    """One browser that has opened the page.

    Attributes:
        cookie: the value of its cookie.
        csrf: the token that its requests to change something must carry.
    """

    cookie: str
    csrf: str


class Access:
    """The present token and the open sessions of one process.

    Args:
        clock: returns seconds that only grow.

    Attributes:
        cookie_name: random, because cookies ignore ports, so that another program on this machine
            neither overwrites the cookie nor names its own like it.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.cookie_name = f"stingy-{secrets.token_hex(8)}"
        self._clock = clock
        self._token: tuple[bytes, float] | None = None  # its digest, and when it ends
        self._sessions: dict[bytes, Session] = {}

    def new_token(self) -> str:
        """Make a token that opens one session within `TOKEN_LIFE_S`. It replaces the one before."""
        token = secrets.token_urlsafe(32)
        self._token = _digest(token), self._clock() + TOKEN_LIFE_S
        return token

    def redeem(self, token: str) -> Session | None:
        """Open a session with a token. Return None if it is not the present one, used or late."""
        if self._token is None or not compare_digest(self._token[0], _digest(token)):
            return None
        (_, ends), self._token = self._token, None
        if self._clock() >= ends:
            return None
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        session = Session(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
        self._sessions[_digest(session.cookie)] = session
        return session

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie's value, or None if there is none."""
        return self._sessions.get(_digest(cookie))


def is_csrf_token(session: Session, text: str) -> bool:
    """Check the token that a request to change something carries."""
    return compare_digest(_digest(session.csrf), _digest(text))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
