"""Endpoints: loaded models with their engines, each of which has answered one image."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from stingy_protection import BundleManifest, Policy, ProtectionError
from stingy_server.inference.engine import EmbeddedEngine, Engine, FusedEngine
from stingy_server.inference.grid_comparison import find_dependence
from stingy_server.inference.onnx_program import OnnxProgram
from stingy_server.models.loading import LoadedModel
from stingy_server.models.opening import NotServable, open_forward
from stingy_server.models.trial import make_trial_images
from stingy_server.settings import ModelSettings, Settings

start = logging.getLogger("stingy.start")  # what a start does; shown until the server listens

# Makes the engine for a model that other processes run.
EngineFactory: TypeAlias = Callable[[LoadedModel], Engine]


@dataclass(frozen=True, eq=False)
class Endpoint:
    """One model version in service: its name, its policy and its engine.

    Attributes:
        weights: the SHA-256 of the model's weights; an artefact has the one of its source bundle.
        share: the fraction of the keys that are routed to this version if they name none. None
            means all remaining keys.
    """

    name: str
    manifest: BundleManifest
    policy: Policy
    engine: Engine
    settings: ModelSettings
    weights: str
    share: float | None = None

    @property
    def budget(self) -> int | None:
        """The budget that all keys share, in images."""
        return self.settings.budget

    @property
    def budget_per_day(self) -> int | None:
        """The budget that all keys share, in images a day."""
        return self.settings.budget_per_day

    @property
    def budget_per_month(self) -> int | None:
        """The budget that all keys share, in images a month."""
        return self.settings.budget_per_month

    @property
    def limited(self) -> bool:
        """True if this endpoint has a budget that all keys share."""
        settings = self.settings
        return not (
            settings.budget is None
            and settings.budget_per_day is None
            and settings.budget_per_month is None
        )


def start_endpoints(
    models: list[LoadedModel],
    settings: Settings,
    *,
    secret: bytes,
    engine_factory: EngineFactory | None = None,
) -> tuple[list[Endpoint], list[str]]:
    """Start an endpoint for each model, and try each on a few images.

    So a model that cannot answer, or whose answers depend on other images, stops the start-up
    before the server listens. Models that other processes run are tried in those processes.

    Args:
        secret: the key of a policy's noise. It is the same in every process and after a restart.
        engine_factory: makes the engines of embedded models, if other processes run them.

    Returns:
        The endpoints and the faults. If there are faults, no endpoints are returned and all
        started engines are closed.
    """
    endpoints: list[Endpoint] = []
    faults: list[str] = []
    try:
        for model in models:
            faults += unmarkable(model, settings, elsewhere=engine_factory is not None)
            if engine_factory is not None and model.settings.engine == "embedded":
                engine = engine_factory(model)
            else:
                engine, engine_faults = _start_engine(model, settings, secret=secret)
                faults += engine_faults
            endpoints.append(
                Endpoint(
                    model.name,
                    model.manifest,
                    model.policy,
                    engine,
                    model.settings,
                    model.weights,
                    share=model.settings.share,
                )
            )
    except BaseException:
        close_endpoints(endpoints)
        raise
    if not faults:
        return endpoints, []
    close_endpoints(endpoints)
    return [], faults


def unmarkable(model: LoadedModel, settings: Settings, *, elsewhere: bool) -> list[str]:
    """Return why the answers of a model cannot be marked, if the settings mark any.

    Args:
        elsewhere: whether other processes run embedded models.
    """
    if not settings.may_mark:
        return []
    reasons = []
    engine, tensors = model.settings.engine, model.settings.tensors
    if engine == "embedded" and elsewhere:
        reasons.append("an engine in this process, got replicas on Ray")
    elif engine == "torchserve" or (engine == "oip" and (tensors is None or not tensors.logits)):
        reasons.append(f"an engine that gets logits, got {engine}, which returns answers")
    elif model.network is not None and not isinstance(model.network, nn.Module | OnnxProgram):
        reasons.append("a bundle, got an artefact, whose program returns answers")
    if not model.policy.keeps_top1:
        reasons.append(f"a policy with the top-1 first, got {model.policy.name}")
    return [
        f"{model.name}: expected {reason}: no answer of it can be marked, so remove mark from "
        "watch.then and tiers, or serve it apart"
        for reason in reasons
    ]


def close_endpoints(endpoints: Iterable[Endpoint]) -> None:
    """Close the engines of endpoints that were never in service."""

    async def close() -> None:
        for endpoint in endpoints:
            await endpoint.engine.close()

    # In its own thread, because start-up may itself run inside an event loop.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, close()).result()


def _start_engine(
    model: LoadedModel, settings: Settings, *, secret: bytes
) -> tuple[Engine, list[str]]:
    """Start the engine that the settings name, and return it with its faults."""
    start.info("%s %s: trying it on a few images", model.name, model.manifest.version)
    if model.network is None:
        # Imported here, because aiohttp costs each start a fifth of a second.
        from stingy_server.upstream.start import start_upstream

        return start_upstream(
            model.name,
            model.settings,
            manifest=model.manifest,
            policy=model.policy,
            settings=settings,
            secret=secret,
            trial=make_trial_images(model.manifest.preprocessing, 2),
        )
    if not isinstance(model.network, nn.Module | OnnxProgram):
        fused = FusedEngine(model.network, settings=settings)
        return fused, _fused_faults(model, fused)
    try:
        forward = open_forward(
            model.network, manifest=model.manifest, policy=model.policy, settings=settings
        )
        faults: tuple[str, ...] = ()
    except NotServable as error:
        forward, faults = error.forward, error.faults
    engine = EmbeddedEngine(forward, policy=model.policy, settings=settings, secret=secret)
    return engine, [f"{model.name}: {fault}" for fault in faults]


def _fused_faults(model: LoadedModel, engine: FusedEngine) -> list[str]:
    images = make_trial_images(model.manifest.preprocessing, 2)
    try:
        alone, repeated = engine.answer(images[:1]), engine.answer(images[:1])
        found = find_dependence(alone, repeated, engine.answer(images))
        return [f"{model.name}: {fault}" for fault in found]
    except (ProtectionError, RuntimeError) as error:
        return [f"{model.name}: a trial image could not be answered: {error}"]
    except Exception as error:  # noqa: BLE001  a runtime may raise anything
        return [f"{model.name}: a trial image ended in {type(error).__name__}"]
