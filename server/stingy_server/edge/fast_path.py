"""A shortcut for the few frequent routes, because FastAPI matches a path against every route.

FastAPI has the same routes too. They are therefore in its OpenAPI document, and it answers other
methods on these paths.
"""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]


class FastPathMiddleware:
    """ASGI middleware that sends a POST on a known path to its handler, and the rest to the app.

    Args:
        handlers: the handler of each path, such as `/v1/predict/{model}`. The handler finds the
            values of the names in `request.path_params`.
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
