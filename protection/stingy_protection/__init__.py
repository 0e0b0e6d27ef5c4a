"""Policies, the gate, the leak meter and bundles: everything that decides what leaves a model.

Invariant: raw logits enter, and only a `SparseLogits` that keeps its policy's promises leaves.
"""

from stingy_protection.answers import ScoreForm, SparseLogits
from stingy_protection.bundles.bundle import read_manifest, verified_weights, write_bundle
from stingy_protection.bundles.manifest import BundleManifest
from stingy_protection.bundles.preprocessing import Preprocessing
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
from stingy_protection.thumbnails import thumbnails

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
