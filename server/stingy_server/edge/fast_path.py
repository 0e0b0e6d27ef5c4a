"""The hot routes, taken before FastAPI looks through all of its routes.

FastAPI knows the same routes, so they are in its document and in its answers to other methods.
"""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]


class FastPathMiddleware:
    """ASGI middleware: a POST to one of these paths goes to its handler, all else to the app.

    Args:
        handlers: by path, such as `/v1/predict/{model}`; `request.path_params` has the names.
    """

    def __init__(self, app: ASGIApp, *, handlers: Mapping[str, Handler]) -> None:
        self._app = app
        self._handlers = [(compile_path(path)[0], handler) for path, handler in handlers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            for pattern, handler in self._handlers:
                if found := pattern.match(scope["path"]):
                    scope["path_params"] = found.groupdict()
                    response = await handler(Request(scope, receive))
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)
