"""A server's application asked without a network, by the same client; it gives the same bytes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import httpx

from stingy_attacker_eval.errors import EvalError
from stingy_clients import Client

_Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]],
    Awaitable[None],
]
"""Any ASGI 3 application; which server it is, the audit does not know."""


@contextmanager
def in_process_client(app: AsgiApp, key: str) -> Iterator[Client]:
    """A client of the application, which is started before and stopped after, in this thread.

    The application's loop runs while a request is under way, and only then. An oracle over it is
    `HttpOracle(client, model=...)`. Raises EvalError when the application does not start.
    """
    with asyncio.Runner() as runner:
        lifespan = _Lifespan(app)
        runner.run(lifespan.start())
        try:
            with Client("http://in-process", key, transport=_Transport(app, runner)) as client:
                yield client
        finally:
            runner.run(lifespan.stop())


class _Transport(httpx.BaseTransport):
    """Blocking requests to an application on the runner's loop."""

    def __init__(self, app: AsgiApp, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return self._runner.run(self._request(request))

    async def _request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        body = await response.aread()
        # As it came: a stream that both kinds of client read, the headers untouched.
        return httpx.Response(
            response.status_code, headers=response.headers, stream=httpx.ByteStream(body)
        )


class _Lifespan:
    """An application's start and stop: the ASGI specification, lifespan protocol 2.0."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._to_app: asyncio.Queue[_Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[_Message] = asyncio.Queue()
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._running = asyncio.create_task(self._run())
        if not await self._phase_completed("startup"):
            await asyncio.wait([self._running])
            reason = self._running.exception()
            self._running = None
            kind = "a failure" if reason is None else type(reason).__name__
            raise EvalError(f"expected an application that starts, got {kind}")

    async def stop(self) -> None:
        if self._running is not None and await self._phase_completed("shutdown"):
            await self._running

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        try:
            await self._app(scope, self._to_app.get, self._from_app.put)
        finally:
            await self._from_app.put({"type": "ended"})

    async def _phase_completed(self, phase: str) -> bool:
        """Return whether the application reports its start or stop as complete."""
        await self._to_app.put({"type": f"lifespan.{phase}"})
        message = await self._from_app.get()
        return bool(message["type"] == f"lifespan.{phase}.complete")
