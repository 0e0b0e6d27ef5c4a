"""Policies, the gate, the leak meter and bundles: everything that decides what leaves a model.

Invariant: raw logits enter, and only a `SparseLogits` that keeps its policy's promises leaves.
Names load on first use, so that commands that need no policy start without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stingy_protection.answers import ScoreForm, SparseLogits
    from stingy_protection.bundles.bundle import read_manifest, verified_weights, write_bundle
    from stingy_protection.bundles.manifest import BundleManifest
    from stingy_protection.bundles.preprocessing import Preprocessing
    from stingy_protection.coarse_pixels import thumbnails
    from stingy_protection.conformance import check_policy
    from stingy_protection.errors import (
        BundleError,
        LogitsRejected,
        PolicyConfigError,
        PolicyViolation,
        ProtectionError,
    )
    from stingy_protection.gate.gate import sanitize
    from stingy_protection.gate.looseness import Looseness, compare_policies
    from stingy_protection.gate.openness import hides_nothing, recovery_error
    from stingy_protection.gate.tighten import tighten
    from stingy_protection.leak_meter import hidden_mass_bound, leak_bits, row_bits
    from stingy_protection.nasty import nasty_loss
    from stingy_protection.policies.base import NoisyPolicy, Policy, Proposal, best_first
    from stingy_protection.policies.buckets import (
        ClassPrototype,
        RankedBuckets,
        class_prototypes,
        write_prototypes,
    )
    from stingy_protection.policies.modelguard import ModelGuardW
    from stingy_protection.policies.noise import KeyedNoise, keyed_noise
    from stingy_protection.policies.registry import (
        build_policy,
        parse_policy,
        policy_names,
        support_size,
    )
    from stingy_protection.policies.reverse_sigmoid import ReverseSigmoid
    from stingy_protection.policies.top_n import (
        Label,
        Open,
        RankedLabels,
        Reversed,
        Rounded,
        Stingy,
        StingySmooth,
    )

__all__ = [
    "BundleError",
    "BundleManifest",
    "ClassPrototype",
    "KeyedNoise",
    "Label",
    "LogitsRejected",
    "Looseness",
    "ModelGuardW",
    "NoisyPolicy",
    "Open",
    "Policy",
    "PolicyConfigError",
    "PolicyViolation",
    "Preprocessing",
    "Proposal",
    "ProtectionError",
    "RankedBuckets",
    "RankedLabels",
    "ReverseSigmoid",
    "Reversed",
    "Rounded",
    "ScoreForm",
    "SparseLogits",
    "Stingy",
    "StingySmooth",
    "best_first",
    "build_policy",
    "check_policy",
    "class_prototypes",
    "compare_policies",
    "hidden_mass_bound",
    "hides_nothing",
    "keyed_noise",
    "leak_bits",
    "nasty_loss",
    "parse_policy",
    "policy_names",
    "read_manifest",
    "recovery_error",
    "row_bits",
    "sanitize",
    "support_size",
    "thumbnails",
    "tighten",
    "verified_weights",
    "write_bundle",
    "write_prototypes",
]

_MODULES = {
    "BundleError": "errors",
    "BundleManifest": "bundles.manifest",
    "ClassPrototype": "policies.buckets",
    "KeyedNoise": "policies.noise",
    "Label": "policies.top_n",
    "LogitsRejected": "errors",
    "Looseness": "gate.looseness",
    "ModelGuardW": "policies.modelguard",
    "NoisyPolicy": "policies.base",
    "Open": "policies.top_n",
    "Policy": "policies.base",
    "PolicyConfigError": "errors",
    "PolicyViolation": "errors",
    "Preprocessing": "bundles.preprocessing",
    "Proposal": "policies.base",
    "ProtectionError": "errors",
    "RankedBuckets": "policies.buckets",
    "RankedLabels": "policies.top_n",
    "ReverseSigmoid": "policies.reverse_sigmoid",
    "Reversed": "policies.top_n",
    "Rounded": "policies.top_n",
    "ScoreForm": "answers",
    "SparseLogits": "answers",
    "Stingy": "policies.top_n",
    "StingySmooth": "policies.top_n",
    "best_first": "policies.base",
    "build_policy": "policies.registry",
    "check_policy": "conformance",
    "class_prototypes": "policies.buckets",
    "compare_policies": "gate.looseness",
    "hidden_mass_bound": "leak_meter",
    "hides_nothing": "gate.openness",
    "keyed_noise": "policies.noise",
    "leak_bits": "leak_meter",
    "nasty_loss": "nasty",
    "parse_policy": "policies.registry",
    "policy_names": "policies.registry",
    "read_manifest": "bundles.bundle",
    "recovery_error": "gate.openness",
    "row_bits": "leak_meter",
    "sanitize": "gate.gate",
    "support_size": "policies.registry",
    "thumbnails": "coarse_pixels",
    "tighten": "gate.tighten",
    "verified_weights": "bundles.bundle",
    "write_bundle": "bundles.bundle",
    "write_prototypes": "policies.buckets",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
