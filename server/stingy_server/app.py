"""The FastAPI application: settings in, a service out, with everything in it checked.

Follow one image: `guard` (key, body) - `routes` (decode, reserve) - `engine` (network, gate) -
`routes` (encode). Nothing turns back.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from stingy_server.detection.monitor import Watch
from stingy_server.edge import oip_routes, routes
from stingy_server.edge.fast_path import FastPathMiddleware
from stingy_server.edge.guard import Guard
from stingy_server.errors import (
    BAD_REQUEST,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    ConfigurationError,
    ServiceError,
)
from stingy_server.identity import bundle_digest
from stingy_server.models.endpoints import EngineFactory, close_endpoints, start_endpoints
from stingy_server.models.fleet import Fleet, overlaps, version_faults
from stingy_server.models.loading import LoadedModel, load_bundles
from stingy_server.observability.metrics import Metrics
from stingy_server.observability.tracing import NoTracing, OpenTelemetry, Tracing
from stingy_server.rollout import Rollout, bundle_faults
from stingy_server.service import Service
from stingy_server.settings import Settings
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.budgets import Budgets, model_owner
from stingy_server.store.database import Database
from stingy_server.store.deployments import Deployment, Deployments
from stingy_server.store.group_commit import BatchedLookup, GroupCommit, StoreExecutor
from stingy_server.store.keys import Keys
from stingy_server.store.ledger import Ledger
from stingy_server.store.rate_limits import Rates

log = logging.getLogger("stingy")

HTTP_REFUSALS = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}


def create_app(
    settings: Settings,
    *,
    faults: list[str] | None = None,
    engine_factory: EngineFactory | None = None,
    expected: Mapping[tuple[str, str], str] | None = None,
) -> FastAPI:
    """The whole service as an ASGI application.

    Args:
        settings: what to serve and how.
        faults: what is already known to be wrong with the configuration, to be told with the
            rest.
        engine_factory: where other processes run the models: their engines. Then what is served is
            what the settings say, and nothing is loaded while it runs.
        expected: where other processes serve the same settings: the `bundle_digest` of each model
            that they began with, by name and version.

    Raises:
        ConfigurationError: listing every fault of settings, bundles and policies.
        StoreUnavailable: the state cannot be read or written. What was started is ended.
    """
    found = [*(faults or [])]
    models = load_bundles(settings, found, with_networks=engine_factory is None)
    found += version_faults(models)
    if expected is not None:
        found += _changes(models, expected)
    found += rate_store_faults(settings)
    rates = _rates(settings, found)
    with contextlib.ExitStack() as started:
        tracing = _tracing(settings, found)
        started.callback(tracing.close)
        database = _database(settings, found)
        started.callback(database.close)
        deployed = Deployments(database).desired() if engine_factory is None else []
        if deployed:
            models += _deployed_models(deployed, settings, found)
            found += version_faults(models)
        endpoints = start_endpoints(
            models, settings, found, secret=database.pepper, engine_factory=engine_factory
        )
        if found:
            raise ConfigurationError(found)
        started.callback(close_endpoints, endpoints)
        budgets = Budgets(database)
        for endpoint in endpoints:
            if endpoint.limited:
                owner = model_owner(endpoint.name)
                budgets.set(owner, total=endpoint.budget, day_total=endpoint.budget_per_day)
        metrics = Metrics()
        keys = Keys(database)
        service = Service(
            settings=settings,
            database=database,
            keys=keys,
            key_lookup=BatchedLookup(database, keys.authenticate, keys.authenticate_all),
            budgets=budgets,
            ledger=Ledger(database),
            writes=GroupCommit(database),
            executor=StoreExecutor(database),
            rates=rates,
            metrics=metrics,
            tracing=tracing,
            watch=Watch(database, settings=settings.watch, metrics=metrics),
            fleet=Fleet(endpoints, secret=database.pepper),
        )
        started.pop_all()  # the lifespan ends them

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.note("start")
        service.watch.start()
        # What runs elsewhere changes there, and not by what the state wants.
        rollout = Rollout(service, deployed) if engine_factory is None else None
        rolling = None if rollout is None else asyncio.create_task(rollout.run())
        yield
        service.draining = True
        if rolling is not None:
            rolling.cancel()
        for endpoint in service.fleet:
            await endpoint.engine.close()
        await service.writes.flush()
        service.watch.close()
        service.tracing.close()
        service.writes.close()
        service.executor.close()
        service.key_lookup.close()
        try:
            if rollout is not None:
                rollout.close()
            service.note("stop")
        except StoreUnavailable as error:
            log.error("%s", error)
        database.close()

    app = _Guarded(
        title="Stingy",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redirect_slashes=False,  # a redirect would repeat the Host header
        # FastAPI's own tells a collector the paths and the errors; ours is in tracing.py.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = service
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_exception)
    app.include_router(routes.router)
    app.include_router(oip_routes.router)
    return app


def _changes(models: list[LoadedModel], expected: Mapping[tuple[str, str], str]) -> list[str]:
    """What is not as it was when the other processes began."""
    return [
        f"{model.name}: the bundle changed since the start: restart to serve it"
        for model in models
        if bundle_digest(model.manifest, model.policy)
        != expected.get((model.name, model.manifest.version))
    ]


def _deployed_models(
    deployed: list[Deployment], settings: Settings, faults: list[str]
) -> list[LoadedModel]:
    """The bundles that were loaded into a running server and are to be served again."""
    desired = tuple(deployment.settings for deployment in deployed)
    own_faults: list[str] = []
    models = load_bundles(settings.model_copy(update={"models": desired}), own_faults)
    own_faults += bundle_faults(deployed, models)
    faults += [f"{fault} (deployed; see: stingy models unload)" for fault in own_faults]
    return models


class _Guarded(FastAPI):
    """FastAPI with the guard around everything, its own middleware too."""

    def build_middleware_stack(self) -> ASGIApp:
        fast_path = FastPathMiddleware(
            super().build_middleware_stack(), handlers=routes.HOT_ROUTES | oip_routes.HOT_ROUTES
        )
        return Guard(fast_path, service=self.state.service)


def rate_store_faults(settings: Settings) -> list[str]:
    """What keeps rates from being counted once for all workers."""
    if settings.workers > 1 and settings.rate_store.startswith("memory:"):
        return [
            "rate_store: expected a store that several workers share, such as redis://..., "
            "got the memory of each"
        ]
    return []


def _rates(settings: Settings, faults: list[str]) -> Rates:
    try:
        return Rates(settings.rate_store)
    except ConfigurationError as error:
        faults += error.faults
        return Rates("memory://")


def _tracing(settings: Settings, faults: list[str]) -> Tracing:
    if settings.trace_endpoint is None:
        return NoTracing()
    try:
        return OpenTelemetry(settings.trace_endpoint, share=settings.trace_share)
    except ConfigurationError as error:
        faults += error.faults
        return NoTracing()


def _database(settings: Settings, faults: list[str]) -> Database:
    """The state, the last thing opened: a configuration with faults leaves no new folder behind."""
    if faults and not settings.state.exists():
        raise ConfigurationError(faults)
    try:
        database = Database(settings.state, store=settings.store)
    except StoreUnavailable as error:
        raise ConfigurationError([*faults, str(error)]) from None
    if faults:
        database.close()
        raise ConfigurationError(faults)
    return database


def summary(service: Service) -> list[str]:
    """One line an endpoint: what it lets out; and a warning where two endpoints let out more."""
    lines = []
    settings = service.settings
    if settings.store is not None and settings.rate_store.startswith("memory:"):
        lines.append(
            "warning: this process counts rates for itself: where several servers share the store, "
            "a key gets its rate of each; give a rate_store such as redis://..."
        )
    for endpoint in service.fleet:
        policy, manifest = endpoint.policy, endpoint.manifest
        lines.append(
            f"{endpoint.name} {manifest.version}: {policy.describe()} [{policy.fingerprint}]"
        )
    return lines + [f"warning: {overlap.text}" for overlap in overlaps(service.fleet)]


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    raise ServiceError(HTTP_REFUSALS.get(error.status_code, BAD_REQUEST)) from None


async def _on_exception(request: Request, error: Exception) -> Response:
    raise error  # the guard refuses; else a page of the framework's own would be on its way
