"""The application: the guard around all routes, and its start and end around the service.

The path of one image, from left to right:
`guard` (key, limits) - `hot_path` (body) - `routes` (count) - `queries` (charge, decode) -
`engine` (network, gate) - `queries` (tier) - `routes` (encode) - `guard` (ledger, headers).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from stingy_server.assembly import assemble
from stingy_server.edge import oip_routes, routes, torchserve_routes
from stingy_server.edge.cors import Cors
from stingy_server.edge.guard import PROBES, Guard
from stingy_server.edge.hot_path import HotPath
from stingy_server.edge.openapi import DESCRIPTION, complete
from stingy_server.errors import (
    BAD_REQUEST,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    ConfigurationError,
    ServiceError,
)
from stingy_server.models.endpoints import EngineFactory
from stingy_server.observability.head_log import HeadLog
from stingy_server.process.certificate import Certificate
from stingy_server.rollout import Rollout
from stingy_server.service import Service
from stingy_server.settings import Settings
from stingy_server.store.base import StoreUnavailable

if TYPE_CHECKING:
    from stingy_server.rpc.server import RpcServer

log = logging.getLogger("stingy")

HTTP_REFUSALS = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}


def create_app(
    settings: Settings,
    *,
    faults: Sequence[str] = (),
    engine_factory: EngineFactory | None = None,
    expected: Mapping[tuple[str, str], str] | None = None,
) -> FastAPI:
    """Build the whole service as an ASGI application.

    Args:
        settings: the models and the limits of the server.
        faults: known faults of the configuration, which are reported with the others.
        engine_factory: makes the engines of models that other processes run. The settings then
            name all models, and no version is loaded while the application runs.
        expected: the `bundle_digest` of each model by name and version, as other processes serve
            them.

    Raises:
        ConfigurationError: lists every fault of settings, bundles and policies.
        StoreUnavailable: the state cannot be read or written. All parts are closed.
    """
    assembly = assemble(settings, faults=faults, engine_factory=engine_factory, expected=expected)
    return _application(*assembly)


def _application(
    service: Service, rollout: Rollout | None, certificate: Certificate | None
) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.last_writes.append(service.refusals.write)
        if service.marker is not None:
            service.last_writes.append(service.marker.write_counts)
        if rollout is not None:
            service.last_writes.append(rollout.close)
        try:
            service.start()
            heads = HeadLog(service.ledger)
            app.state.rpc = rpc = await _start_rpc(service, certificate)
        except (StoreUnavailable, ConfigurationError) as error:
            log.error("this process does not serve: %s", error)
            service.close()
            raise
        service.last_writes.append(heads.write)
        tasks = [asyncio.create_task(heads.run(service.executor))]
        if rollout is not None:
            tasks.append(asyncio.create_task(rollout.run()))
        if certificate is not None:
            tasks.append(asyncio.create_task(certificate.watch()))
        yield
        for task in tasks:
            task.cancel()
        if rpc is not None:
            service.begin_drain()
            await rpc.stop()
        await service.drain()
        service.close()

    app = _Guarded(
        title="Stingy",
        version=installed_version("stingy"),
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redirect_slashes=False,  # a redirect would repeat the Host header
        # FastAPI's own telemetry would send paths and errors to a collector; ours is tracing.py.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = service
    app.state.certificate = certificate
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_exception)
    app.include_router(routes.router)
    app.include_router(oip_routes.router)
    app.include_router(torchserve_routes.router)
    return app


async def _start_rpc(service: Service, certificate: Certificate | None) -> "RpcServer | None":
    """Start the gRPC server, if the settings name its port.

    Raises:
        ConfigurationError: as from `RpcServer.start`.
    """
    if service.settings.grpc_port is None:
        return None
    from stingy_server.rpc.server import RpcServer

    server = RpcServer(service, certificate)
    await server.start()
    return server


class _Guarded(FastAPI):
    """A FastAPI application with the guard around all routes and all other middleware."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document. No route serves it."""
        if self.openapi_schema is None:
            complete(super().openapi(), without_key=PROBES)
        return super().openapi()

    def build_middleware_stack(self) -> ASGIApp:
        service: Service = self.state.service
        handlers = routes.HOT_ROUTES | oip_routes.HOT_ROUTES | torchserve_routes.HOT_ROUTES
        hot_path = HotPath(service, handlers=handlers)
        guard = Guard(super().build_middleware_stack(), service=service, hot_path=hot_path)
        if not service.settings.cors_origins:
            return guard
        return Cors(guard, origins=service.settings.cors_origins, methods=self.openapi()["paths"])


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    raise ServiceError(HTTP_REFUSALS.get(error.status_code, BAD_REQUEST)) from None


async def _on_exception(request: Request, error: Exception) -> Response:
    raise error  # to the guard, which refuses; FastAPI would send a page of its own
