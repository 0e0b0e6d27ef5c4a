"""From loaded models to endpoints in service, each of which has answered one image."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import nn

from stingy_protection import BundleManifest, Policy, ProtectionError
from stingy_server.codec.images import Pixels
from stingy_server.inference.engine import EmbeddedEngine, Engine, FusedEngine
from stingy_server.inference.runtimes import Network, RuntimeUnfit, chosen_runtime
from stingy_server.models.loading import LoadedModel
from stingy_server.settings import ModelSettings, Settings
from stingy_server.upstream.start import start_upstream

# The engine of a model that would run in this process, where other processes run it.
EngineFactory: TypeAlias = Callable[[LoadedModel], Engine]


@dataclass(frozen=True, eq=False)
class Endpoint:
    """One model in service: what it is called, what it may let out, and what answers.

    `weights` is the SHA-256 of those it answers with, in whatever form.
    `share` is of the keys that meet this version when they name none; None for all that are left.
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
        """Of all keys together, in images."""
        return self.settings.budget

    @property
    def budget_per_day(self) -> int | None:
        """Of all keys together, in images a day."""
        return self.settings.budget_per_day

    @property
    def limited(self) -> bool:
        """Whether all keys together have a budget here."""
        return self.budget is not None or self.budget_per_day is not None


def start_endpoints(
    models: list[LoadedModel],
    settings: Settings,
    faults: list[str],
    *,
    secret: bytes,
    engine_factory: EngineFactory | None = None,
) -> list[Endpoint]:
    """The endpoints, each of which was asked one black image, so that a misfit shows before
    listening; but for those elsewhere, which were asked there. Where there are faults, what was
    started is ended, and there is none.

    Args:
        faults: what keeps an endpoint from answering is added.
        secret: what a policy's noise is keyed by; the same in every process and after a restart.
    """
    started: list[Endpoint] = []
    try:
        for model in models:
            there = engine_factory if model.settings.engine == "embedded" else None
            started.append(
                Endpoint(
                    model.name,
                    model.manifest,
                    model.policy,
                    _engine(model, settings, faults, secret=secret)
                    if there is None
                    else there(model),
                    model.settings,
                    model.weights,
                    share=model.settings.share,
                )
            )
    except BaseException:
        close_endpoints(started)
        raise
    if not faults:
        return started
    close_endpoints(started)
    return []


def close_endpoints(endpoints: Iterable[Endpoint]) -> None:
    """End the engines of endpoints that never were in service."""

    async def close() -> None:
        for endpoint in endpoints:
            await endpoint.engine.close()

    # In a thread of its own: start-up may itself run within a loop.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, close()).result()


def _engine(model: LoadedModel, settings: Settings, faults: list[str], *, secret: bytes) -> Engine:
    """The engine that the settings ask for; what keeps it from its work is a fault."""
    black = np.zeros((1, *model.manifest.preprocessing.size, 3), np.uint8)
    if model.network is None:
        return start_upstream(
            model.name,
            model.settings,
            manifest=model.manifest,
            policy=model.policy,
            settings=settings,
            secret=secret,
            trial=black,
            faults=faults,
        )
    if not isinstance(model.network, nn.Module):
        return _tried(FusedEngine(model.network, settings=settings), model, black, faults)
    network: Network = model.network
    try:
        _, network = chosen_runtime(
            model.network,
            preprocessing=model.manifest.preprocessing,
            policy=model.policy,
            settings=settings,
        )
    except RuntimeUnfit as error:
        faults.append(f"{model.name}: not run by {settings.runtime}: {error}")
    engine = EmbeddedEngine(
        network,
        preprocessing=model.manifest.preprocessing,
        policy=model.policy,
        settings=settings,
        secret=secret,
    )
    return _tried(engine, model, black, faults)


def _tried(
    engine: EmbeddedEngine | FusedEngine, model: LoadedModel, trial: Pixels, faults: list[str]
) -> Engine:
    try:
        engine.answer(trial)
    except (ProtectionError, RuntimeError) as error:
        faults.append(f"{model.name}: a trial image could not be answered: {error}")
    except Exception as error:  # noqa: BLE001  a network or a runtime may raise anything
        faults.append(f"{model.name}: a trial image ended in {type(error).__name__}")
    return engine
