"""The service on Ray Serve: edge replicas as ingress, and replicas of each model behind them.

`stingy_server.ray_serve.app:app` reads `stingy.toml` where it is built; no replica reads
settings again.
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

from stingy_server.app import create_app, rate_store_faults
from stingy_server.errors import ConfigurationError
from stingy_server.models.fleet import version_faults
from stingy_server.models.loading import LoadedModel, load_bundles, missing_models
from stingy_server.process.core_dumps import forbid_core_dumps
from stingy_server.process.gc_tuning import freeze_gc
from stingy_server.ray_serve.engine import ModelReplica, RayEngine
from stingy_server.settings import DEFAULT_FILE, ReplicaSettings, Settings, load_settings

log = logging.getLogger("stingy")

FAST_INGRESS = "RAY_SERVE_ENABLE_HA_PROXY"


class Arguments(BaseModel):
    """The `args` of the application in a configuration of Ray Serve.

    `revision`: whatever differs makes Ray read the settings again and put new replicas in place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path | None = None
    revision: str = ""


def app(arguments: Arguments) -> serve.Application:
    """The application that `serve run` and `serve deploy` put into service.

    Raises:
        ConfigurationError: listing every fault that can be seen without reading weights.
    """
    config = arguments.config or DEFAULT_FILE
    # Replicas run in folders of their own: what is relative is so to the settings file's.
    settings, faults = load_settings(config.absolute() if config.exists() else arguments.config)
    settings = settings.model_copy(
        update={"state": settings.state.absolute(), "workers": settings.ray.edge.most}
    )
    faults = faults or missing_models(settings)
    models, found = load_bundles(settings, with_networks=False)
    faults += found
    faults += version_faults(models)
    faults += rate_store_faults(settings)
    if settings.metrics_port is not None:
        faults.append("metrics_port: expected none on Ray, whose replicas share no port, got one")
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
        settings, {_deployed_as(m): _model(m, settings) for m in models if _is_embedded(m)}
    )


def _is_embedded(model: LoadedModel) -> bool:
    return model.settings.engine == "embedded"


def _replicas(model: LoadedModel, settings: Settings) -> ReplicaSettings:
    return model.settings.replicas or settings.ray.model


def _deployed_as(model: LoadedModel) -> str:
    return f"{model.name}@{model.manifest.version}"


def _model(model: LoadedModel, settings: Settings) -> serve.Application:
    deployment = serve.deployment(
        ModelReplica,
        name=_deployed_as(model),
        # While one batch is computed, the next one gathers.
        max_ongoing_requests=2 * settings.batch_size,
        max_queued_requests=settings.ray.max_queued,
        **_scaled(_replicas(model, settings), target=settings.batch_size, settings=settings),
    )
    return deployment.bind(settings.model_copy(update={"models": (model.settings,)}))


def _edge(settings: Settings, models: dict[str, serve.Application]) -> serve.Application:
    deployment = serve.deployment(
        Edge,
        name="edge",
        # The guard refuses what is beyond `max_concurrency`, in words that clients know.
        max_ongoing_requests=2 * settings.max_concurrency,
        **_scaled(settings.ray.edge, target=settings.max_concurrency // 4, settings=settings),
    )
    return deployment.bind(settings, models)


def _scaled(replicas: ReplicaSettings, *, target: int, settings: Settings) -> dict[str, Any]:
    """What Ray is told of replicas; `target`: requests at once, for which one is enough."""
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=replicas.min_replicas,
            max_replicas=replicas.most,
            target_ongoing_requests=max(1, target),
        ),
        "ray_actor_options": {"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        "graceful_shutdown_timeout_s": settings.drain_s,
        "logging_config": {"enable_access_log": False},  # who asked what is the ledger's to tell
    }


@serve.ingress()
class Edge:
    """One edge replica: the whole service but the networks.

    Args:
        models: the handle of each deployment by its name.
    """

    def __init__(self, settings: Settings, models: dict[str, DeploymentHandle]) -> None:
        forbid_core_dumps()
        if settings.store is None:
            _demand_one_host()
        self._settings = settings
        self._models = models

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(self._settings, engine_factory=self._engine)
        freeze_gc()
        return app

    def _engine(self, model: LoadedModel) -> RayEngine:
        return RayEngine(
            model.name,
            self._models[_deployed_as(model)],
            manifest=model.manifest,
            policy=model.policy,
        )


def _demand_one_host() -> None:
    """Budgets in SQLite are exact among the processes of one host, and of one alone."""
    hosts = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if len(hosts) > 1:
        raise ConfigurationError(
            [f"store: expected a PostgreSQL that {len(hosts)} hosts share, got none"]
        )
