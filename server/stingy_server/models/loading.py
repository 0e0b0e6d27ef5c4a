"""Load bundles and artefacts from disk, with their networks and weights, and collect all faults.

The order is fixed: manifest, policy, hash of the weights. Only then does the server parse a tensor
or import a factory, and it imports factories from trusted modules alone.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from stingy_protection import (
    BundleError,
    BundleManifest,
    Policy,
    PolicyConfigError,
    ProtectionError,
    build_policy,
    hides_nothing,
    parse_policy,
    read_manifest,
    recovery_error,
    verified_weights,
)
from stingy_protection.bundles.bundle import verified_bytes
from stingy_protection.bundles.state import fit_state
from stingy_server.inference.onnx_program import OnnxProgram
from stingy_server.inference.thread_batcher import AnswerFunction
from stingy_server.models.advice import openness_advice
from stingy_server.models.artefact import is_artefact, open_artefact, read_artefact
from stingy_server.models.factories import FactoryRejected, check_factory, find_factory
from stingy_server.models.no_bundle import explain_no_bundle
from stingy_server.settings import ModelSettings, Settings, misplaced_settings

LoadedNetwork: TypeAlias = nn.Module | OnnxProgram | AnswerFunction

start = logging.getLogger("stingy.start")  # what a start does; shown until the server listens


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that has passed every check that needs no image.

    Attributes:
        name: the name under which it is served.
        weights: the SHA-256 of its weights; an artefact has the one of its source bundle. A bundle
            without weights has the address of its upstream.
        network: the network with its weights, the program of an ONNX bundle, or an artefact's
            program with its gate. None if another process runs the model.
    """

    name: str
    manifest: BundleManifest
    policy: Policy
    settings: ModelSettings
    weights: str
    network: LoadedNetwork | None


@dataclass(frozen=True, eq=False)
class ValidatedBundle:
    """A bundle that has passed every check that needs no factory.

    Attributes:
        embedded: true if this process runs the model.
        state: the weights, if this process runs the network.
        program: the program of an artefact or an ONNX bundle, if this process runs it.
    """

    name: str
    manifest: BundleManifest
    policy: Policy
    settings: ModelSettings
    weights: str
    embedded: bool
    state: dict[str, Tensor] | None = None
    program: AnswerFunction | OnnxProgram | None = None


def load_bundles(
    settings: Settings, *, with_networks: bool = True
) -> tuple[list[LoadedModel], list[str]]:
    """Load the bundles and artefacts of the settings, with their networks.

    Args:
        with_networks: False if other processes run the networks. Then no weights are read here.

    Returns:
        The models without faults, and the faults of the other models.
    """
    bundles: list[ValidatedBundle] = []
    models: list[LoadedModel] = []
    faults: list[str] = []
    for model in settings.models:
        embedded = with_networks and model.engine == "embedded"
        bundle, bundle_faults = _validate(model, settings, embedded=embedded)
        faults += bundle_faults
        bundles += [] if bundle is None else [bundle]
    for bundle in bundles:
        start.info("%s %s: loading", bundle.name, bundle.manifest.version)
        loaded, load_faults = _load(bundle, trusted=settings.trusted_factories)
        faults += load_faults
        models += [] if loaded is None else [loaded]
    return models, faults


def missing_models(settings: Settings) -> list[str]:
    """Return a fault if the settings name no bundle."""
    if settings.models:
        return []
    return ["models: expected at least one bundle to serve, got none"]


def _validate(
    model: ModelSettings, settings: Settings, *, embedded: bool
) -> tuple[ValidatedBundle | None, list[str]]:
    read = _read_artefact if is_artefact(model.bundle) else _read_bundle
    bundle, faults = read(model, settings, embedded=embedded)
    if bundle is None:
        return None, faults
    faults += [f"{bundle.name}: {fault}" for fault in misplaced_settings(model)]
    faults += _openness_faults(bundle, allow_open=settings.allow_open)
    return (None if faults else bundle), faults


def _openness_faults(bundle: ValidatedBundle, *, allow_open: bool) -> list[str]:
    """Measure the openness of a bundle's policy, and report it if open policies are refused."""
    policy = bundle.policy
    try:
        is_open = hides_nothing(policy)
    except (ProtectionError, TypeError) as error:  # TypeError: a policy that cannot be hashed
        return [f"{bundle.name}: the policy {policy.name} fails on random rows: {error}"]
    if allow_open or not is_open:
        return []
    return [
        f"{bundle.name}: the policy {policy.describe()} hides nothing: its answers tell whole rows "
        f"to within {recovery_error(policy):.1%} of their spread; {openness_advice(policy)}"
    ]


def _read_artefact(
    model: ModelSettings, settings: Settings, *, embedded: bool
) -> tuple[ValidatedBundle | None, list[str]]:
    """Read an artefact. Its factory is never called, and its policy is the fused one."""
    try:
        artefact = read_artefact(model.bundle)
        program = None
        if embedded:
            program = open_artefact(model.bundle, threads=torch.get_num_threads())
    except BundleError as error:
        return None, [f"{model.bundle}: {fault}" for fault in error.faults]
    name = model.name or artefact.manifest.name
    faults = []
    if model.policy is not None:
        faults.append(f"{name}: the artefact has its policy fused in: expected none, got one")
    bundle = ValidatedBundle(
        name,
        artefact.manifest,
        artefact.policy,
        model,
        artefact.weights,
        embedded,
        program=program,
    )
    return bundle, faults


def _read_bundle(
    model: ModelSettings, settings: Settings, *, embedded: bool
) -> tuple[ValidatedBundle | None, list[str]]:
    try:
        manifest = read_manifest(model.bundle, with_weights=False)
    except BundleError as error:
        sentence = explain_no_bundle(model.bundle)
        found = error.faults if sentence is None else (sentence,)
        return None, [f"{model.bundle}: {fault}" for fault in found]
    name = model.name or manifest.name
    policy = state = program = None
    faults: list[str] = []
    try:
        policy_name, options = parse_policy(model.policy or manifest.policy)
        policy = build_policy(policy_name, num_classes=len(manifest.classes), **options)
    except PolicyConfigError as error:
        faults += [f"{name}: {fault}" for fault in error.faults]
    if model.engine == "embedded" and manifest.weights is None:
        faults.append(
            f"{name}: expected weights for the engine embedded, got a bundle without; for another "
            'model server set engine = "oip" and its url in [[models]]'
        )
    elif embedded and manifest.weights == "onnx":
        program, program_faults = _read_program(name, model, manifest)
        faults += program_faults
    elif embedded:
        state, state_faults = _read_state(name, model, manifest, settings)
        faults += state_faults
    if policy is None:
        return None, faults
    weights = manifest.sha256 or str(model.url)
    bundle = ValidatedBundle(
        name, manifest, policy, model, weights, embedded, state=state, program=program
    )
    return bundle, faults


def _read_program(
    name: str, model: ModelSettings, manifest: BundleManifest
) -> tuple[OnnxProgram | None, list[str]]:
    """Read an ONNX bundle's program, which must have its weights inside."""
    try:
        return OnnxProgram.read(verified_bytes(model.bundle, manifest), manifest), []
    except BundleError as error:
        return None, [f"{name}: {fault}" for fault in error.faults]


def _read_state(
    name: str, model: ModelSettings, manifest: BundleManifest, settings: Settings
) -> tuple[dict[str, Tensor] | None, list[str]]:
    """Read a network's weights, and check the path and arguments of its factory."""
    found = check_factory(manifest.factory, manifest.arguments, trusted=settings.trusted_factories)
    faults = [f"{name}: {fault}" for fault in found]
    try:
        return verified_weights(model.bundle, manifest), faults
    except BundleError as error:
        return None, faults + [f"{name}: {fault}" for fault in error.faults]


def _load(
    bundle: ValidatedBundle, *, trusted: Sequence[str]
) -> tuple[LoadedModel | None, list[str]]:
    network: LoadedNetwork | None = bundle.program
    if bundle.state is not None:
        network, faults = _build_network(bundle, bundle.state, trusted=trusted)
        if network is None:
            return None, faults
    model = LoadedModel(
        bundle.name, bundle.manifest, bundle.policy, bundle.settings, bundle.weights, network
    )
    return model, []


def _build_network(
    bundle: ValidatedBundle, state: dict[str, Tensor], *, trusted: Sequence[str]
) -> tuple[nn.Module | None, list[str]]:
    """Call the factory of a bundle and load its weights."""
    name, path = bundle.name, bundle.manifest.factory
    try:
        network = find_factory(path, trusted=trusted)(**bundle.manifest.arguments)
    except FactoryRejected as error:
        return None, [f"{name}: {error}"]
    # A factory is foreign code, which may raise anything.
    except Exception as error:  # noqa: BLE001
        return None, [f"{name}: {path} failed: {type(error).__name__}: {error}"]
    if not isinstance(network, nn.Module):
        got = type(network).__name__
        return None, [f"{name}: expected {path} to make a torch.nn.Module, got {got}"]
    try:
        network.load_state_dict(fit_state(state, network, factory=path))
    except BundleError as error:
        return None, [f"{name}: the weights do not fit: {fault}" for fault in error.faults]
    except Exception:  # noqa: BLE001  a module may override how it loads weights
        return None, [f"{name}: the weights do not fit {path}"]
    return network, []
