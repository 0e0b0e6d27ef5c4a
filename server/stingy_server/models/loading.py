"""From bundles and artefacts on disk to networks with their weights, with every fault found first.

The order is fixed: manifest, policy, hash of the weights, and only then is a tensor parsed or a
factory imported, and that from trusted modules alone.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stingy_protection import (
    BundleError,
    BundleManifest,
    Policy,
    PolicyConfigError,
    build_policy,
    parse_policy,
    read_manifest,
    verified_weights,
)
from stingy_server.inference.thread_batcher import AnswerFunction
from stingy_server.models.artefact import is_artefact, open_artefact, read_artefact
from stingy_server.settings import ModelSettings, Settings, misplaced_settings

# Arguments by which well-known factories would fetch other weights than the bundle's.
DOWNLOADS = frozenset({"weights", "weights_backbone", "pretrained", "checkpoint_path"})


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that has passed every check there is before it is asked.

    Attributes:
        name: what it is served under.
        weights: the SHA-256 of the weights it answers with, also of an artefact's.
        network: with its weights; or an artefact's program, gate and all; or None where it runs
            elsewhere.
    """

    name: str
    manifest: BundleManifest
    policy: Policy
    settings: ModelSettings
    weights: str
    network: nn.Module | AnswerFunction | None


@dataclass(frozen=True, eq=False)
class ValidatedBundle:
    """A bundle that has passed every check that needs no factory; `state` of a network here.

    `embedded`: whether this process is to run it.
    """

    name: str
    manifest: BundleManifest
    policy: Policy
    settings: ModelSettings
    weights: str
    embedded: bool
    state: dict[str, Tensor] | None = None
    program: AnswerFunction | None = None


def load_bundles(
    settings: Settings, faults: list[str], *, with_networks: bool = True
) -> list[LoadedModel]:
    """The bundles and artefacts of the settings, with their networks.

    Args:
        faults: what is already known to be wrong with the configuration; all that is wrong with
            the models is added.
        with_networks: False where other processes run them: then no weights are read here.
    """
    if not settings.models and not faults:
        faults.append("models: expected at least one bundle to serve, got none")
    checks = (
        _check(model, settings, faults, embedded=with_networks and model.engine == "embedded")
        for model in settings.models
    )
    checked = [found for found in checks if found is not None]
    loaded = [_loaded(model, faults) for model in checked]
    return [model for model in loaded if model is not None]


def _check(
    model: ModelSettings, settings: Settings, faults: list[str], *, embedded: bool
) -> ValidatedBundle | None:
    before = len(faults)
    read = _artefact if is_artefact(model.bundle) else _bundle
    found = read(model, settings, faults, embedded=embedded)
    if found is None:
        return None
    faults += [f"{found.name}: {fault}" for fault in misplaced_settings(model)]
    if found.policy.hides_nothing and not settings.allow_open:
        faults.append(
            f"{found.name}: the policy {found.policy.describe()} hides nothing; "
            "set allow_open = true to serve it"
        )
    return None if len(faults) > before else found


def _artefact(
    model: ModelSettings, settings: Settings, faults: list[str], *, embedded: bool
) -> ValidatedBundle | None:
    """Its factory is never called, and its policy is what was fused in."""
    try:
        artefact = read_artefact(model.bundle)
        program = None
        if embedded:
            program = open_artefact(model.bundle, threads=torch.get_num_threads())
    except BundleError as error:
        faults += [f"{model.bundle}: {fault}" for fault in error.faults]
        return None
    name = model.name or artefact.manifest.name
    if model.policy is not None:
        faults.append(f"{name}: the artefact has its policy fused in: expected none, got one")
    manifest, policy = artefact.manifest, artefact.policy
    return ValidatedBundle(
        name, manifest, policy, model, artefact.weights, embedded, program=program
    )


def _bundle(
    model: ModelSettings, settings: Settings, faults: list[str], *, embedded: bool
) -> ValidatedBundle | None:
    try:
        manifest = read_manifest(model.bundle, with_weights=embedded)
    except BundleError as error:
        faults += [f"{model.bundle}: {fault}" for fault in error.faults]
        return None
    name = model.name or manifest.name
    policy = None
    try:
        policy_name, options = parse_policy(model.policy or manifest.policy)
        policy = build_policy(policy_name, num_classes=len(manifest.classes), **options)
    except PolicyConfigError as error:
        faults += [f"{name}: {fault}" for fault in error.faults]
    state = _state(name, model, manifest, settings, faults) if embedded else None
    if policy is None:
        return None
    return ValidatedBundle(name, manifest, policy, model, manifest.sha256, embedded, state=state)


def _state(
    name: str,
    model: ModelSettings,
    manifest: BundleManifest,
    settings: Settings,
    faults: list[str],
) -> dict[str, Tensor] | None:
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
        return None


def _loaded(model: ValidatedBundle, faults: list[str]) -> LoadedModel | None:
    network = model.program if model.state is None else _network(model, model.state, faults)
    if network is None and model.embedded:
        return None
    return LoadedModel(
        model.name, model.manifest, model.policy, model.settings, model.weights, network
    )


def _network(
    model: ValidatedBundle, state: dict[str, Tensor], faults: list[str]
) -> nn.Module | None:
    """The bundle's network with its weights, or None and a fault."""
    module, _, attribute = model.manifest.factory.partition(":")
    try:
        factory: Any = getattr(importlib.import_module(module), attribute)
        network = factory(**model.manifest.arguments)
    # A factory is anybody's code, and may raise anything.
    except Exception as error:  # noqa: BLE001
        message = f"{type(error).__name__}: {error}"
        faults.append(f"{model.name}: {model.manifest.factory} failed: {message}")
        return None
    if not isinstance(network, nn.Module):
        faults.append(
            f"{model.name}: expected {model.manifest.factory} to make a torch.nn.Module, "
            f"got {type(network).__name__}"
        )
        return None
    try:
        network.load_state_dict(state)
    except Exception:  # noqa: BLE001  a module may load its weights in a way of its own
        faults.append(f"{model.name}: the weights do not fit {model.manifest.factory}")
        return None
    return network
