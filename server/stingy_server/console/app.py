"""The console's application: its page, its document, and two changes. The guard is around it.

A name of a key is in the document alone, and the page's script writes it as text.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stingy_server.console.documents import MOST_BITS
from stingy_server.console.feed import Feed, Outcome, Query

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
Handler = Callable[[Request], Awaitable[Response]]
KINDS = ("all", "answers", "refusals", "events")
READ_ONLY = "The console is read-only; start it with --write to change keys."


def console_app(feed: Feed, *, writer: str | None) -> Starlette:
    """Make the application.

    Args:
        feed: the state.
        writer: the user on the host who may change keys; None for a console that only reads.
    """

    async def document(request: Request) -> Response:
        kind = request.query_params.get("entries", "all")
        query = Query(kind if kind in KINDS else "all", request.query_params.get("key"))
        found = await feed.document(query)
        csrf = None if writer is None else request.state.csrf
        return JSONResponse(found | {"writer": writer, "csrf": csrf, "most_bits": MOST_BITS})

    def change(act: Callable[[str], Awaitable[Outcome]]) -> Handler:
        async def handle(request: Request) -> Response:
            if writer is None:
                return JSONResponse({"fault": READ_ONLY}, 403)
            outcome = await act(request.path_params["key"])
            return JSONResponse({"fault": outcome.fault}, outcome.status)

        return handle

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        feed.close()

    routes = [
        *(_file_route(path) for path in sorted(STATIC.iterdir()) if path.suffix in TYPES),
        Route("/state", document),
        Route("/keys/{key}/release", change(feed.release), methods=["POST"]),
        Route("/keys/{key}/revoke", change(feed.revoke), methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _file_route(path: Path) -> Route:
    """Return the route of a file of the page, which is read once."""
    content, media_type = path.read_bytes(), TYPES[path.suffix]

    async def send(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return Route("/" if path.name == "index.html" else f"/{path.name}", send)
