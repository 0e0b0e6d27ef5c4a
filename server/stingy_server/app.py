"""The composition root: builds a FastAPI application from settings and checks all its parts.

The path of one image, from left to right:
`guard` (key, limits) - `hot_path` (body) - `routes` (count) - `service` (charge, decode) -
`engine` (network, gate) - `service` (tier) - `routes` (encode) - `guard` (ledger, headers).
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from stingy_server.admission import Admission
from stingy_server.codec.decode_pool import QUEUED_REQUESTS, DecodePool
from stingy_server.codec.loop_turns import LoopTurns
from stingy_server.deadlines import Deadlines
from stingy_server.detection.monitor import Watch
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
from stingy_server.identity import bundle_digest
from stingy_server.marks.secret import MarkSecret
from stingy_server.marks.start import open_secret
from stingy_server.models.advice import policy_notes, scale_notes
from stingy_server.models.endpoints import EngineFactory, close_endpoints, start_endpoints
from stingy_server.models.fleet import Fleet, looser_faults, overlaps, version_faults
from stingy_server.models.loading import LoadedModel, load_bundles, missing_models
from stingy_server.observability.budget_notices import BudgetNotices
from stingy_server.observability.head_log import HeadLog
from stingy_server.observability.metrics import Metrics
from stingy_server.observability.tracing import NoTracing, OpenTelemetry, Tracing
from stingy_server.observability.webhook import Webhook, read_secret
from stingy_server.process.certificate import Certificate, load_certificate
from stingy_server.rates.rate_limits import MemoryRates, Rates, parse_rate
from stingy_server.rollout import Rollout, bundle_faults
from stingy_server.service import Service
from stingy_server.settings import FULL_TIER, Settings
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.budgets import Budgets, model_owner
from stingy_server.store.charges import Charges, KnownCallers
from stingy_server.store.database import FILE, Database
from stingy_server.store.deployments import Deployment, Deployments
from stingy_server.store.group_commit import BatchedLookup, GroupCommit, StoreExecutor
from stingy_server.store.keys import Keys
from stingy_server.store.ledger import Ledger
from stingy_server.store.pepper import PEPPER
from stingy_server.store.refusal_tally import RefusalTally

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
    models, faults = _checked_models(settings, faults, with_networks=engine_factory is None)
    if expected is not None:
        faults += _changes(models, expected)
    rates, found = _rates(settings)
    tracing, more = _tracing(settings)
    metrics = Metrics()
    webhook, wrong = _webhook(settings, metrics)
    mark_secret, of_marks = open_secret(settings)
    faults += of_marks
    faults += rate_store_faults(settings) + room_faults(settings) + rpc_faults(settings)
    certificate, bad = load_certificate(settings)
    faults += found + more + wrong + bad + _token_faults(settings)
    try:
        database = _database(settings, faults)
    except BaseException:
        tracing.close()
        raise
    notices = BudgetNotices(metrics, webhook)
    service = _service(
        settings, database=database, rates=rates, tracing=tracing, metrics=metrics, notices=notices
    )
    try:
        _accept_tokens(service)
        deployed = Deployments(database).desired() if engine_factory is None else []
        _fill_fleet(service, models, deployed, engine_factory=engine_factory)
        service.watch.restore()
        _start_marks(service, mark_secret)
    except BaseException:
        close_endpoints(service.fleet)
        service.close()
        raise
    # Models that other processes run change there, not by the desired versions of the state.
    rollout = Rollout(service, deployed) if engine_factory is None else None
    return _application(service, rollout, certificate)


def _checked_models(
    settings: Settings, faults: Sequence[str], *, with_networks: bool
) -> tuple[list[LoadedModel], list[str]]:
    """Load the models of the settings. Return them, and their faults after the known ones."""
    models, found = load_bundles(settings, with_networks=with_networks)
    faults = faults or missing_models(settings)
    return models, [*faults, *found, *version_faults(models)]


def _service(
    settings: Settings,
    *,
    database: Database,
    rates: Rates,
    tracing: Tracing,
    metrics: Metrics,
    notices: BudgetNotices,
) -> Service:
    """Assemble a service that has no endpoint yet."""
    keys, budgets = Keys(database), Budgets(database)
    ledger, writes = Ledger(database), GroupCommit(database)
    return Service(
        settings=settings,
        database=database,
        keys=keys,
        key_lookup=BatchedLookup(database, keys.authenticate, keys.authenticate_all),
        budgets=budgets,
        charges=Charges(database, keys, budgets, KnownCallers(database.pepper), ledger),
        ledger=ledger,
        refusals=RefusalTally(ledger, writes),
        writes=writes,
        executor=StoreExecutor(database),
        rates=rates,
        request_rates=MemoryRates(),
        metrics=metrics,
        notices=notices,
        tracing=tracing,
        watch=Watch(database, settings=settings.watch, metrics=metrics),
        fleet=Fleet([], secret=database.pepper),
        admission=Admission(settings),
        deadlines=Deadlines(settings.deadline_s),
        turns=LoopTurns(),
        decoders=DecodePool(capacity=QUEUED_REQUESTS * settings.max_pixels, share=settings.share),
    )


def _token_faults(settings: Settings) -> list[str]:
    """Return the faults of the settings of tokens, if there are any."""
    oidc = settings.oidc
    if oidc is None:
        return []
    faults = []
    if find_spec("jwt") is None or find_spec("cryptography") is None:
        faults.append("oidc: expected PyJWT and cryptography, got none: pip install 'stingy[oidc]'")
    if oidc.tier_claim is None and oidc.tier not in (FULL_TIER, *settings.tiers):
        faults.append("oidc.tier: expected the name of one of the tiers, got another")
    return faults


def _accept_tokens(service: Service) -> None:
    """Accept tokens beside keys, if the settings have an issuer.

    Raises StoreUnavailable if their budget cannot be written.
    """
    if (oidc := service.settings.oidc) is None:
        return
    # Imported here because PyJWT is an optional dependency.
    from stingy_server.oidc.token_callers import TokenCallers

    service.tokens = TokenCallers(
        oidc,
        service.settings,
        database=service.database,
        keys=service.keys,
        budgets=service.budgets,
        executor=service.executor,
        on_change=service.charges.known.drop_principals,
    )
    service.charges = replace(service.charges, recheck_token=service.tokens.recheck)


def _start_marks(service: Service, secret: MarkSecret | None) -> None:
    """Mark answers under a secret, if the settings mark any.

    Raises ConfigurationError if the state was first used with another secret.
    """
    settings = service.settings
    if secret is None or settings.marks is None or not settings.may_mark:
        return
    # Imported here because cryptography is an optional dependency.
    from stingy_server.marks.marker import Marker

    service.marker = Marker(
        service.database,
        secret,
        settings=settings.marks,
        writes=service.writes,
        ledger=service.ledger,
        metrics=service.metrics,
    )
    try:
        service.marker.start()
    except StoreUnavailable as error:
        raise ConfigurationError([str(error)]) from None


def _fill_fleet(
    service: Service,
    models: list[LoadedModel],
    deployed: list[Deployment],
    *,
    engine_factory: EngineFactory | None,
) -> None:
    """Put an endpoint for each model and each deployment into service, and set their budgets."""
    settings = service.settings
    faults: list[str] = []
    if deployed:
        loaded, faults = _deployed_models(deployed, models, settings)
        models = models + loaded
        faults += version_faults(models)
    endpoints, found = start_endpoints(
        models, settings, secret=service.database.pepper, engine_factory=engine_factory
    )
    for endpoint in endpoints:
        service.fleet.put(endpoint)
    if faults or found:
        raise ConfigurationError([*faults, *found])
    for endpoint in endpoints:
        if endpoint.limited:
            service.budgets.set(
                model_owner(endpoint.name),
                total=endpoint.budget,
                day_total=endpoint.budget_per_day,
                month_total=endpoint.budget_per_month,
            )


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


def _changes(models: list[LoadedModel], expected: Mapping[tuple[str, str], str]) -> list[str]:
    """Report models whose bundle changed since the server started."""
    current = {
        (model.name, model.manifest.version): bundle_digest(model.manifest, model.policy)
        for model in models
    }
    return [
        f"{name}: the bundle changed since the start: restart to serve it"
        for (name, version), bundle in current.items()
        if bundle != expected.get((name, version))
    ]


def _deployed_models(
    deployed: list[Deployment], models: list[LoadedModel], settings: Settings
) -> tuple[list[LoadedModel], list[str]]:
    """Load the versions that were deployed to a running server, so that a restart serves them.

    Args:
        models: the models of the settings. No deployment is looser than these without permission.
    """
    desired = tuple(deployment.settings for deployment in deployed)
    loaded, faults = load_bundles(settings.model_copy(update={"models": desired}))
    faults += bundle_faults(deployed, loaded)
    allowed = {(each.name, each.version) for each in deployed if each.looser}
    in_service = [*models]

    def place(model: LoadedModel) -> tuple[bool, bool]:
        """Put what was allowed first, then the version with which the others were compared."""
        return not is_allowed(model), model.settings.share is not None

    def is_allowed(model: LoadedModel) -> bool:
        return (model.name, model.manifest.version) in allowed

    for model in sorted(loaded, key=place):
        faults += [] if is_allowed(model) else looser_faults(model, in_service)
        in_service.append(model)
    return loaded, [f"{fault} (deployed; see: stingy models unload)" for fault in faults]


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


def rate_store_faults(settings: Settings) -> list[str]:
    """Return a fault if there are several workers and each would count rates by itself."""
    if settings.workers > 1 and settings.rate_store.startswith("memory:"):
        return [
            "rate_store: expected a store that several workers share, such as redis://..., "
            "got memory://, which each worker has for itself"
        ]
    return []


def rpc_faults(settings: Settings) -> list[str]:
    """Return the faults of the port of gRPC, if there is one."""
    port = settings.grpc_port
    if port is None:
        return []
    faults = []
    if not (find_spec("grpc") and find_spec("google.protobuf")):
        faults.append("grpc_port: expected the extra grpc, got none; pip install 'stingy[grpc]'")
    if port and port in (settings.port, settings.metrics_port):
        faults.append(f"grpc_port: expected a port of its own, got {port}, which has another use")
    return faults


def room_faults(settings: Settings) -> list[str]:
    """Return a fault if the largest body exceeds what one key may hold."""
    least = math.ceil(settings.max_body_bytes / settings.share)
    if settings.max_held_bytes < least:
        return [
            f"max_held_bytes: expected at least max_body_bytes / share, which is {least}, "
            f"got {settings.max_held_bytes}"
        ]
    return []


def _rates(settings: Settings) -> tuple[Rates, list[str]]:
    faults = []
    try:
        parse_rate(settings.request_rate)
    except ValueError as error:
        faults.append(f"request_rate: {error}")
    try:
        return Rates(settings.rate_store), faults
    except ConfigurationError as error:
        return Rates("memory://"), [*faults, *error.faults]


def _tracing(settings: Settings) -> tuple[Tracing, list[str]]:
    if settings.trace_endpoint is None:
        return NoTracing(), []
    try:
        return OpenTelemetry(settings.trace_endpoint, share=settings.trace_share), []
    except ConfigurationError as error:
        return NoTracing(), [*error.faults]


def _webhook(settings: Settings, metrics: Metrics) -> tuple[Webhook | None, list[str]]:
    url, file = settings.webhook_url, settings.webhook_secret_file
    if url is None and file is None:
        return None, []
    if url is None or file is None:
        return None, ["webhook: expected webhook_url and webhook_secret_file, got one of them"]
    try:
        secret = read_secret(file)
    except ConfigurationError as error:
        return None, [*error.faults]
    return Webhook(url, secret, count=metrics.count_webhook), []


def _database(settings: Settings, faults: Sequence[str]) -> Database:
    """Open the state last, and only for a configuration without faults.

    A start that fails changes nothing, because another server may run on the same state.

    Raises:
        ConfigurationError: lists these faults and those of the state, if there is any.
    """
    if faults:
        raise ConfigurationError([*faults, *_state_faults(settings)])
    try:
        return Database(settings.state, store=settings.store)
    except StoreUnavailable as error:
        raise ConfigurationError([str(error)]) from None


def _state_faults(settings: Settings) -> list[str]:
    """Return why a state that is there cannot be used. Change nothing."""
    needed = FILE if settings.store is None else PEPPER
    is_new = settings.state.is_dir() and not (settings.state / needed).exists()
    if is_new or not settings.state.exists():
        return []
    try:
        Database(settings.state, store=settings.store, read_only=True).close()
    except StoreUnavailable as error:
        return [str(error)]
    return []


def summary(service: Service) -> list[str]:
    """Describe the policy of each endpoint in a line, and warn of what may surprise.

    Warnings are of weak rate limits, of scores that never differ, of a mean or std of another
    scale, and of overlaps.

    An overlap is a set of endpoints that together let out more than each of them.
    """
    lines = []
    settings = service.settings
    if settings.store is not None and settings.rate_store.startswith("memory:"):
        lines.append(
            "warning: this process counts rates in its own memory: if several servers share the "
            "store, a key gets its full rate from each; set rate_store, such as redis://..."
        )
    for endpoint in service.fleet:
        policy, manifest = endpoint.policy, endpoint.manifest
        title = f"{endpoint.name} {manifest.version}"
        lines.append(f"{title}: {policy.describe()} [{policy.fingerprint}]")
        notes = [*policy_notes(policy), *scale_notes(manifest.preprocessing)]
        lines += [f"warning: {title}: {note}" for note in notes]
    return lines + [f"warning: {overlap.text}" for overlap in overlaps(service.fleet)]


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    raise ServiceError(HTTP_REFUSALS.get(error.status_code, BAD_REQUEST)) from None


async def _on_exception(request: Request, error: Exception) -> Response:
    raise error  # to the guard, which refuses; FastAPI would send a page of its own
