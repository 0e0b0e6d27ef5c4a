"""From bundles on disk to endpoints in service, with every fault found before listening.

The order is fixed: manifest, policy, hash of the weights, and only then is a tensor parsed or a
factory imported, and that from trusted modules alone.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from stingy_protection import (
    BundleError,
    BundleManifest,
    Policy,
    PolicyConfigError,
    ProtectionError,
    build_policy,
    parse_policy,
    read_manifest,
    verified_weights,
)
from stingy_server.engine import EmbeddedEngine, Engine
from stingy_server.runtimes import Network, RuntimeUnfit, chosen_runtime
from stingy_server.settings import ModelSettings, Settings
from stingy_server.upstream_start import misplaced_settings, start_upstream

# Arguments by which well-known factories would fetch other weights than the bundle's.
DOWNLOADS = frozenset({"weights", "weights_backbone", "pretrained", "checkpoint_path"})


@dataclass(frozen=True, eq=False)
class Endpoint:
    """One model in service: what it is called, what it may let out, and what answers.

    `share` is of the keys that meet this version when they name none; None for all that are left.
    """

    name: str
    manifest: BundleManifest
    policy: Policy
    engine: Engine
    settings: ModelSettings
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


@dataclass(frozen=True, eq=False)
class _Checked:
    """A bundle that has passed every check that needs no factory."""

    name: str
    manifest: BundleManifest
    policy: Policy
    weights: dict[str, Tensor]
    settings: ModelSettings


@dataclass(frozen=True, eq=False)
class Loaded:
    """A bundle whose network has its weights, or runs elsewhere."""

    bundle: "_Checked"
    network: nn.Module | None

    @property
    def name(self) -> str:
        """What it is served under."""
        return self.bundle.name

    @property
    def manifest(self) -> BundleManifest:
        return self.bundle.manifest

    @property
    def settings(self) -> ModelSettings:
        return self.bundle.settings


def load_bundles(settings: Settings, faults: list[str]) -> list[Loaded]:
    """The bundles of the settings, with their networks.

    Args:
        faults: what is already known to be wrong with the configuration; all that is wrong with
            the models is added.
    """
    if not settings.models and not faults:
        faults.append("models: expected at least one bundle to serve, got none")
    checked = [
        found for model in settings.models if (found := _check(model, settings, faults)) is not None
    ]
    loaded = []
    for bundle in checked:
        embedded = bundle.settings.engine == "embedded"
        network = _network(bundle, faults) if embedded else None
        if network is not None or not embedded:
            loaded.append(Loaded(bundle, network))
    return loaded


def start_endpoints(
    bundles: list[Loaded], settings: Settings, faults: list[str], *, secret: bytes
) -> list[Endpoint]:
    """The endpoints, each of which has answered one image.

    Args:
        faults: what keeps an endpoint from answering is added.
        secret: what a policy's noise is keyed by; the same in every process and after a restart.
    """
    return [_endpoint(loaded, settings, faults, secret=secret) for loaded in bundles]


def _check(model: ModelSettings, settings: Settings, faults: list[str]) -> _Checked | None:
    embedded = model.engine == "embedded"
    try:
        manifest = read_manifest(model.bundle, with_weights=embedded)
    except BundleError as error:
        faults += [f"{model.bundle}: {fault}" for fault in error.faults]
        return None
    before = len(faults)
    name = model.name or manifest.name
    try:
        policy_name, options = parse_policy(model.policy or manifest.policy)
        policy = build_policy(policy_name, num_classes=len(manifest.classes), **options)
    except PolicyConfigError as error:
        faults += [f"{name}: {fault}" for fault in error.faults]
    else:
        if policy.hides_nothing and not settings.allow_open:
            faults.append(
                f"{name}: the policy {policy.describe()} hides nothing; "
                "set allow_open = true to serve it"
            )
    faults += [f"{name}: {fault}" for fault in misplaced_settings(model)]
    weights = _weights(name, model, manifest, settings, faults) if embedded else {}
    return None if len(faults) > before else _Checked(name, manifest, policy, weights, model)


def _weights(
    name: str,
    model: ModelSettings,
    manifest: BundleManifest,
    settings: Settings,
    faults: list[str],
) -> dict[str, Tensor]:
    """The weights of a network that is to run here, if its factory may."""
    module = manifest.factory.partition(":")[0]
    if not any(f"{module}.".startswith(f"{home}.") for home in settings.trusted_factories):
        faults.append(
            f"{name}: expected a factory from a trusted module, got {manifest.factory}; "
            "if you trust it, add its module to trusted_factories"
        )
    for argument in sorted(DOWNLOADS & set(manifest.arguments)):
        faults.append(f"{name}: the argument {argument} would fetch weights; remove it")
    try:
        return verified_weights(model.bundle, manifest)
    except BundleError as error:
        faults += [f"{name}: {fault}" for fault in error.faults]
        return {}


def _network(model: _Checked, faults: list[str]) -> nn.Module | None:
    """The bundle's network with its weights, or None and a fault."""
    module, _, attribute = model.manifest.factory.partition(":")
    try:
        factory: Any = getattr(importlib.import_module(module), attribute)
        network = factory(**model.manifest.arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        faults.append(f"{model.name}: {model.manifest.factory} failed: {error}")
        return None
    if not isinstance(network, nn.Module):
        faults.append(
            f"{model.name}: expected {model.manifest.factory} to make a torch.nn.Module, "
            f"got {type(network).__name__}"
        )
        return None
    try:
        network.load_state_dict(model.weights)
    except RuntimeError:
        faults.append(f"{model.name}: the weights do not fit {model.manifest.factory}")
        return None
    return network


def _engine(loaded: Loaded, settings: Settings, faults: list[str], *, secret: bytes) -> Engine:
    """The engine that the settings ask for; what keeps it from its work is a fault."""
    model = loaded.bundle
    preprocessing, policy = model.manifest.preprocessing, model.policy
    trial = np.zeros((1, *preprocessing.size, 3), np.uint8)
    if loaded.network is None:
        return start_upstream(
            model.name,
            model.settings,
            manifest=model.manifest,
            policy=policy,
            settings=settings,
            secret=secret,
            trial=trial,
            faults=faults,
        )
    network: Network = loaded.network
    try:
        _, network = chosen_runtime(
            loaded.network, preprocessing=preprocessing, policy=policy, settings=settings
        )
    except RuntimeUnfit as error:
        faults.append(f"{model.name}: not run by {settings.runtime}: {error}")
    engine = EmbeddedEngine(
        network, preprocessing=preprocessing, policy=policy, settings=settings, secret=secret
    )
    try:
        engine.answer(trial)
    except (ProtectionError, RuntimeError) as error:
        faults.append(f"{model.name}: a trial image could not be answered: {error}")
    return engine


def _endpoint(loaded: Loaded, settings: Settings, faults: list[str], *, secret: bytes) -> Endpoint:
    """An endpoint that has answered one black image, so that a misfit shows before listening."""
    model = loaded.bundle
    engine = _engine(loaded, settings, faults, secret=secret)
    return Endpoint(
        model.name,
        model.manifest,
        model.policy,
        engine,
        model.settings,
        share=model.settings.share,
    )
