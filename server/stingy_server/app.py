"""The FastAPI application: settings in, a service out, with everything in it checked.

Follow one image: `guard` (key, body) - `routes` (decode, reserve) - `engine` (network, gate) -
`routes` (encode). Nothing turns back.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from stingy_server import oip_routes, routes
from stingy_server.endpoints import Endpoint, load_endpoints
from stingy_server.errors import (
    BAD_REQUEST,
    INTERNAL,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    ConfigurationError,
    Refusal,
    ServiceError,
    error_response,
)
from stingy_server.guard import Guard
from stingy_server.keys import KeyStore, StoreUnavailable
from stingy_server.service import Service
from stingy_server.settings import Settings

log = logging.getLogger("stingy")

HTTP_REFUSALS = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}


def create_app(settings: Settings, *, faults: list[str] | None = None) -> FastAPI:
    """The whole service as an ASGI application.

    Args:
        settings: what to serve and how.
        faults: what is already known to be wrong with the configuration, to be told with the
            rest.

    Raises:
        ConfigurationError: listing every fault of settings, bundles and policies.
    """
    found = [*(faults or [])]
    endpoints = load_endpoints(settings, found)
    keys = _open_keys(settings, found)
    service = Service(settings=settings, keys=keys, endpoints=endpoints)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.draining = True
        for endpoint in endpoints.values():
            await endpoint.engine.close()
        keys.close()

    app = FastAPI(title="Stingy", lifespan=lifespan, openapi_url=None, docs_url=None)
    app.state.service = service
    app.add_middleware(Guard, keys=keys, max_body_bytes=settings.max_body_bytes)
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_exception)
    app.include_router(routes.router)
    app.include_router(oip_routes.router)
    return app


def _open_keys(settings: Settings, faults: list[str]) -> KeyStore:
    """The store of keys, the last thing opened: a configuration with faults leaves none open."""
    try:
        keys = KeyStore(settings.state)
    except StoreUnavailable as error:
        raise ConfigurationError([*faults, str(error)]) from None
    if faults:
        keys.close()
        raise ConfigurationError(faults)
    return keys


def summary(endpoints: Mapping[str, Endpoint]) -> list[str]:
    """One line an endpoint: what it lets out."""
    return [
        f"{endpoint.name} {endpoint.manifest.version}: {endpoint.policy.describe()} "
        f"[{endpoint.policy.fingerprint}]"
        for endpoint in endpoints.values()
    ]


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101
    return _refusal(request, error.refusal)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    return _refusal(request, HTTP_REFUSALS.get(error.status_code, BAD_REQUEST))


async def _on_exception(request: Request, error: Exception) -> Response:
    # The type alone: a message may quote what was computed on.
    log.error("unexpected %s", type(error).__name__)
    return _refusal(request, INTERNAL)


def _refusal(request: Request, refusal: Refusal) -> Response:
    return error_response(refusal, request.scope["state"]["request_id"])
