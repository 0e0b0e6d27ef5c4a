"""The assembly of a service from settings: every part is made and checked before one starts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from stingy_server.admission import Admission, room_faults
from stingy_server.codec.decode_pool import QUEUED_REQUESTS, DecodePool
from stingy_server.codec.loop_turns import LoopTurns
from stingy_server.deadlines import Deadlines
from stingy_server.detection.monitor import Watch
from stingy_server.errors import ConfigurationError
from stingy_server.marks.secret import MarkSecret
from stingy_server.marks.start import open_secret
from stingy_server.models.deployed import changed_bundles, load_deployed
from stingy_server.models.endpoints import EngineFactory, close_endpoints, start_endpoints
from stingy_server.models.fleet import Fleet, version_faults
from stingy_server.models.loading import LoadedModel, load_bundles, missing_models
from stingy_server.observability.budget_notices import BudgetNotices
from stingy_server.observability.metrics import Metrics
from stingy_server.observability.tracing import Tracing, open_tracing
from stingy_server.observability.webhook import open_webhook
from stingy_server.oidc.start import token_faults
from stingy_server.process.certificate import Certificate, load_certificate
from stingy_server.rates.memory_rates import MemoryRates
from stingy_server.rates.rates import Rates
from stingy_server.rates.start import open_rates
from stingy_server.rollout import Rollout
from stingy_server.service import Service
from stingy_server.settings import Settings
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.budgets import Budgets, model_owner
from stingy_server.store.charges import Charges, KnownCallers
from stingy_server.store.database import FILE, Database, folder_failure
from stingy_server.store.deployments import Deployment, Deployments
from stingy_server.store.group_commit import BatchedLookup, GroupCommit, StoreExecutor
from stingy_server.store.keys import Keys
from stingy_server.store.ledger import Ledger
from stingy_server.store.pepper import PEPPER
from stingy_server.store.refusal_tally import RefusalTally


class Assembly(NamedTuple):
    """A service that can start.

    Attributes:
        rollout: None if other processes run the models.
        certificate: None without TLS.
    """

    service: Service
    rollout: Rollout | None
    certificate: Certificate | None


def assemble(
    settings: Settings,
    *,
    faults: Sequence[str],
    engine_factory: EngineFactory | None,
    expected: Mapping[tuple[str, str], str] | None,
) -> Assembly:
    """Make all parts of a service, with its arguments as `create_app` has them.

    Raises:
        ConfigurationError: lists every fault of settings, bundles and policies.
        StoreUnavailable: the state cannot be read or written. All parts are closed.
    """
    models, faults = _checked_models(settings, faults, with_networks=engine_factory is None)
    if expected is not None:
        faults += changed_bundles(models, expected)
    metrics = Metrics()
    mark_secret, found = open_secret(settings)
    rates, more = open_rates(settings)
    faults += found + more + room_faults(settings) + _rpc_faults(settings)
    tracing, found = open_tracing(settings)
    webhook, more = open_webhook(settings, count=metrics.count_webhook)
    faults += found + more
    certificate, found = load_certificate(settings)
    faults += found + token_faults(settings)
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
    return Assembly(service, rollout, certificate)


def _rpc_faults(settings: Settings) -> list[str]:
    if settings.grpc_port is None:
        return []
    # Imported here because the room sets up gRPC for this process.
    from stingy_server.rpc.start import rpc_faults

    return rpc_faults(settings)


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
    try:
        is_new = settings.state.is_dir() and not (settings.state / needed).exists()
        if is_new or not settings.state.exists():
            return []
        Database(settings.state, store=settings.store, read_only=True).close()
    except OSError as error:
        return [str(folder_failure(settings.state, error))]
    except StoreUnavailable as error:
        return [str(error)]
    return []


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
        loaded, faults = load_deployed(deployed, models, settings)
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
