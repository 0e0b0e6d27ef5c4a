"""The prediction routes, past FastAPI: the one place that trades its comfort for time.

It skips FastAPI's router, which tries each route in turn, and Starlette's requests and responses.
It may, because the guard has checked the head already, and a handler checks the body. FastAPI has
the same routes for its OpenAPI document, and answers other methods on these paths.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Receive

from stingy_server.codec.oip_answers import Encoded
from stingy_server.edge.openapi import request_body
from stingy_server.errors import INTERNAL, ServiceError
from stingy_server.models.endpoints import Endpoint
from stingy_server.observability.request_record import RequestRecord
from stingy_server.queries.changed_keys import refresh_key
from stingy_server.queries.tiers import find_tier
from stingy_server.service import Service
from stingy_server.settings import Tier


class Query(NamedTuple):
    """A prediction request whose body is whole.

    Attributes:
        json_length: the value of the header that gives the length of a JSON head, if there is one.
        headers: all headers of the request, with their names in lower case.
    """

    service: Service
    record: RequestRecord
    endpoint: Endpoint
    tier: Tier
    body: bytes
    json_length: str | None
    headers: Iterable[tuple[bytes, bytes]]


Handler = Callable[[Query], Awaitable[Encoded]]


class Route(NamedTuple):
    """A handler, and the values of the names in its path."""

    handler: Handler
    model: str
    version: str | None


class HotPath:
    """The prediction routes of a service.

    Args:
        handlers: the handler of each method and path, such as `/v1/predict/{model}`.
    """

    def __init__(self, service: Service, *, handlers: Mapping[tuple[str, str], Handler]) -> None:
        self._service = service
        self._handlers = [
            (method, compile_path(path)[0], handler) for (method, path), handler in handlers.items()
        ]
        self.find = lru_cache(maxsize=256)(self._find)

    def _find(self, method: str, path: str) -> Route | None:
        """Return the route of a method on a path, or None if FastAPI has it."""
        for its_method, pattern, handler in self._handlers:
            if method == its_method and (found := pattern.match(path)):
                named = found.groupdict()
                return Route(handler, named["model"], named.get("version"))
        return None

    async def answer(
        self,
        route: Route,
        record: RequestRecord,
        receive: Receive,
        *,
        json_length: bytes | None,
        headers: Iterable[tuple[bytes, bytes]],
    ) -> Encoded:
        """Answer a request on a route.

        Raises:
            ServiceError: any refusal.
            ClientDisconnect: the client left before its body was whole.
        """
        service = self._service
        endpoint = service.endpoint(record, route.model, route.version)
        body = await _read_body(receive)
        length = None if json_length is None else json_length.decode("latin-1")
        # Not in a function that gRPC shares, because one more coroutine would slow every request.
        try:
            tier = find_tier(service, record)
            return await route.handler(
                Query(service, record, endpoint, tier, body, length, headers)
            )
        except ServiceError as error:
            tier = await refresh_key(service, record, error)
        return await route.handler(Query(service, record, endpoint, tier, body, length, headers))


async def _read_body(receive: Receive) -> bytes:
    pieces = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _documented(request: Request) -> Response:
    """Stand in FastAPI's routes for a handler, so that its OpenAPI document has them."""
    raise ServiceError(INTERNAL)


def add_to_document(
    router: APIRouter,
    handlers: Mapping[tuple[str, str], Handler],
    *media_types: str,
    **options: Any,
) -> None:
    """Add the routes of handlers to FastAPI's document.

    Args:
        media_types: the types of their bodies.
        options: of each route, as FastAPI takes them.
    """
    for (method, path), handler in handlers.items():
        router.add_api_route(
            path.removeprefix(router.prefix),
            _documented,
            name=handler.__name__,
            description=handler.__doc__,
            methods=[method],
            openapi_extra=request_body(path, *media_types),
            **options,
        )
