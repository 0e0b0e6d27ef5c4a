"""The tokens that open the console. Any process that can read the state's pepper can make one.

So `stingy console token` needs no connection to the console, and no secret is written to a file.
"""

import hmac
import re
import secrets
import time
from collections.abc import Callable

from stingy_server.loopback.access import TOKEN_LIFE_S, Access, Session

FORM = re.compile(r"([0-9]{1,15})\.([0-9a-f]{32})\.([0-9a-f]{64})")


def make_token(pepper: bytes, port: int, *, now: float | None = None) -> str:
    """Make a token that opens the console on a port once, within `TOKEN_LIFE_S`.

    Args:
        pepper: that of the state which the console shows.
        port: the port of the console.
        now: in seconds since 1970; None for the present time.
    """
    made_ms = int(1000 * (time.time() if now is None else now))
    nonce = secrets.token_hex(16)
    return f"{made_ms}.{nonce}.{_signature(pepper, port, str(made_ms), nonce)}"


class ConsoleAccess(Access):
    """The sessions of one console, and the tokens that it has taken.

    Args:
        pepper: that of the state which the console shows.
        port: the port of the console. A token for another port opens nothing here.
        clock: returns seconds since 1970.
    """

    def __init__(self, pepper: bytes, port: int, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._pepper = pepper
        self._port = port
        self._wall_clock = clock
        self._started_ms = int(1000 * clock())  # an earlier process may have taken older tokens
        self._taken: dict[str, int] = {}  # nonces, and when their tokens were made

    def redeem(self, token: str) -> Session | None:
        """Open a session with a token. Return None if it is not ours, was used, or is late."""
        found = FORM.fullmatch(token)
        if found is None:
            return None
        made, nonce, signature = found.groups()
        if not hmac.compare_digest(signature, _signature(self._pepper, self._port, made, nonce)):
            return None
        now_ms = int(1000 * self._wall_clock())
        earliest = max(self._started_ms, now_ms - int(1000 * TOKEN_LIFE_S) + 1)
        if not earliest <= int(made) <= now_ms or nonce in self._taken:
            return None
        self._taken = {each: at for each, at in self._taken.items() if at >= earliest}
        self._taken[nonce] = int(made)
        return super().redeem(self.new_token())


def _signature(pepper: bytes, port: int, made: str, nonce: str) -> str:
    text = f"stingy console {port} {made} {nonce}"
    return hmac.new(pepper, text.encode(), "sha256").hexdigest()
