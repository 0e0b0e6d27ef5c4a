"""The service on Ray Serve: edge replicas as ingress, and replicas of each model behind them.

`stingy_server.ray_serve.app:app` reads `stingy.toml` when Ray builds the application. Replicas get
the settings and do not read the file.
"""

import logging
import os
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle

from stingy_server.app import create_app
from stingy_server.errors import ConfigurationError
from stingy_server.models.endpoints import unmarkable
from stingy_server.models.fleet import version_faults
from stingy_server.models.loading import LoadedModel, load_bundles, missing_models
from stingy_server.process.core_dumps import forbid_core_dumps
from stingy_server.process.gc_tuning import freeze_gc
from stingy_server.rates.start import rate_store_faults
from stingy_server.ray_serve.engine import ModelReplica, RayEngine
from stingy_server.settings import ReplicaSettings, Settings
from stingy_server.settings_sources import DEFAULT_FILE, load_settings

log = logging.getLogger("stingy")

FAST_INGRESS = "RAY_SERVE_ENABLE_HA_PROXY"


class Arguments(BaseModel):
    """The `args` of the application in a configuration of Ray Serve.

    Attributes:
        config: the settings file; `stingy.toml` in the current folder by default.
        revision: any text. If it changes, Ray reads the settings again and replaces the replicas.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path | None = None
    revision: str = ""


def app(arguments: Arguments) -> serve.Application:
    """Build the application that `serve run` and `serve deploy` put into service.

    Raises:
        ConfigurationError: with every fault that can be found without reading weights.
    """
    config = arguments.config or DEFAULT_FILE
    # Absolute, because replicas run in other folders. Relative paths belong to the file's folder.
    settings, faults = load_settings(config.absolute() if config.exists() else arguments.config)
    settings = settings.model_copy(
        update={"state": settings.state.absolute(), "workers": settings.ray.edge.most}
    )
    faults = faults or missing_models(settings)
    models, bundle_faults = load_bundles(settings, with_networks=False)
    faults += bundle_faults
    faults += version_faults(models)
    faults += rate_store_faults(settings)
    faults += [fault for model in models for fault in unmarkable(model, settings, elsewhere=True)]
    if settings.tls_cert is not None or settings.tls_key is not None:
        faults.append("tls_cert: expected none on Ray, whose proxy takes the connections, got one")
    if settings.metrics_port is not None:
        faults.append("metrics_port: expected none on Ray, whose replicas share no port, got one")
    if settings.grpc_port is not None:
        faults.append("grpc_port: expected none on Ray, whose replicas share no port, got one")
    faults += [
        f"{model.name}: expected num_gpus of its replicas for device = cuda, got none"
        for model in models
        if settings.device == "cuda" and not _replicas(model, settings).num_gpus
    ]
    if faults:
        raise ConfigurationError(faults)
    if os.environ.get(FAST_INGRESS) != "1":
        log.warning("expected %s=1: without it a request takes much more time", FAST_INGRESS)
    return _edge(
        settings, {_deployment_name(m): _model(m, settings) for m in models if _is_embedded(m)}
    )


def _is_embedded(model: LoadedModel) -> bool:
    return model.settings.engine == "embedded"


def _replicas(model: LoadedModel, settings: Settings) -> ReplicaSettings:
    return model.settings.replicas or settings.ray.model


def _deployment_name(model: LoadedModel) -> str:
    return f"{model.name}@{model.manifest.version}"


def _model(model: LoadedModel, settings: Settings) -> serve.Application:
    deployment = serve.deployment(
        ModelReplica,
        name=_deployment_name(model),
        # Twice a batch, because the next batch collects while one is computed.
        max_ongoing_requests=2 * settings.batch_size,
        max_queued_requests=settings.ray.max_queued,
        **_scaling(_replicas(model, settings), target=settings.batch_size, settings=settings),
    )
    return deployment.bind(settings.model_copy(update={"models": (model.settings,)}))


def _edge(settings: Settings, models: dict[str, serve.Application]) -> serve.Application:
    deployment = serve.deployment(
        Edge,
        name="edge",
        # Twice the limit, because the guard refuses requests beyond `max_concurrency` itself, with
        # an error that clients know.
        max_ongoing_requests=2 * settings.max_concurrency,
        **_scaling(settings.ray.edge, target=settings.max_concurrency // 4, settings=settings),
    )
    return deployment.bind(settings, models)


def _scaling(replicas: ReplicaSettings, *, target: int, settings: Settings) -> dict[str, Any]:
    """Return Ray's options for replicas.

    Args:
        target: the concurrent requests for which one replica is enough.
    """
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=replicas.min_replicas,
            max_replicas=replicas.most,
            target_ongoing_requests=max(1, target),
        ),
        "ray_actor_options": {"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        "graceful_shutdown_timeout_s": settings.drain_s,
        "logging_config": {"enable_access_log": False},  # the ledger records requests
    }


@serve.ingress()
class Edge:
    """One edge replica: the whole service except the networks.

    Args:
        models: the handles of the model deployments, by name.
    """

    def __init__(self, settings: Settings, models: dict[str, DeploymentHandle]) -> None:
        forbid_core_dumps()
        if settings.store is None:
            _require_one_host()
        self._settings = settings
        self._models = models

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(self._settings, engine_factory=self._engine)
        freeze_gc()
        return app

    def _engine(self, model: LoadedModel) -> RayEngine:
        return RayEngine(
            model.name,
            self._models[_deployment_name(model)],
            manifest=model.manifest,
            policy=model.policy,
        )


def _require_one_host() -> None:
    """Check that the cluster has one host, because SQLite's budgets are exact on one host alone.

    Raises ConfigurationError if it has several.
    """
    hosts = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if len(hosts) > 1:
        raise ConfigurationError(
            [f"store: expected a PostgreSQL that {len(hosts)} hosts share, got none"]
        )
