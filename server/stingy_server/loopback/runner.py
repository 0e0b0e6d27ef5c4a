"""The server of a page on loopback. Invariant: it listens on 127.0.0.1 and nowhere else."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from stingy_server.loopback.access import Access
from stingy_server.loopback.guard import LoopbackGuard

HOST = "127.0.0.1"
MAX_BODY_BYTES = 2**20
GRACE_S = 1  # for requests in flight at the end


def bind(port: int = 0) -> socket.socket:
    """Listen on a port of 127.0.0.1; 0 is any free one. Browsers wait for `run_page`.

    Raises:
        OSError: if another program has the port.
    """
    listener = socket.socket(socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def page_address(listener: socket.socket, access: Access) -> str:
    """Return an address that opens the page once, within a minute. It ends the one before."""
    return f"http://{HOST}:{listener.getsockname()[1]}/?token={access.new_token()}"


def run_page(
    app: ASGIApp,
    listener: socket.socket,
    *,
    access: Access,
    another: str,
    max_body_bytes: int = MAX_BODY_BYTES,
    on_enter: Callable[[], None] | None = None,
) -> None:
    """Serve a page until SIGINT or SIGTERM.

    Nothing of a request is logged, because its address may have the token.

    Args:
        app: the page, behind a `LoopbackGuard` that this function puts around it.
        listener: the socket of `bind`.
        access: the secrets.
        another: a sentence that names the way to another token.
        max_body_bytes: of a request.
        on_enter: called when a person presses Enter in the terminal; None for nothing.
    """
    guarded = LoopbackGuard(
        app,
        access=access,
        port=listener.getsockname()[1],
        max_body_bytes=max_body_bytes,
        another=another,
    )
    config = uvicorn.Config(
        guarded,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    with contextlib.suppress(KeyboardInterrupt):
        _PageServer(config, on_enter).run(sockets=[listener])


class _PageServer(uvicorn.Server):
    """A server that also reads the terminal."""

    def __init__(self, config: uvicorn.Config, on_enter: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._on_enter = on_enter

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_enter is not None and (terminal := _own_terminal()) is not None:
            loop = asyncio.get_running_loop()
            loop.add_reader(terminal, self._read, terminal, self._on_enter)

    def _read(self, terminal: int, on_enter: Callable[[], None]) -> None:
        try:
            pressed = os.read(terminal, 1024)
        except OSError:
            pressed = b""
        if pressed:
            on_enter()
        else:  # the terminal is gone
            asyncio.get_running_loop().remove_reader(terminal)


def _own_terminal() -> int | None:
    """Return the descriptor of the terminal whose input comes to this process; None without one.

    A process in the background that reads its terminal is stopped by the system.
    """
    try:
        descriptor = sys.stdin.fileno()
        is_own = os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # no standard input, or one that was replaced
        return None
    return descriptor if is_own else None
