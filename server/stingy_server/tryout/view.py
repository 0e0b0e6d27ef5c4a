"""The document of the page for a choice: an image by classes, the use of a folder, the audit.

Invariant: every answer comes from the gate and is made smaller as the server does it. All numbers
of leaks come from the leak meter, or from an audit of the same policy and version.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from stingy_clients.documents.audit_report import AuditReport
from stingy_clients.utility import utility
from stingy_protection import (
    BundleManifest,
    Label,
    NoisyPolicy,
    Open,
    Policy,
    ProtectionError,
    SparseLogits,
    hides_nothing,
    row_bits,
    sanitize,
)
from stingy_server.codec.oip_answers import answer_rows
from stingy_server.edge.tier_view import TierView
from stingy_server.models.advice import policy_notes
from stingy_server.queries.tiers import tighten_to_tier
from stingy_server.settings import FULL_TIER
from stingy_server.tryout.choice import Choice
from stingy_server.tryout.workbench import Known

SHOWN_KEPT = 50  # classes that leave and have a row of their own
SHOWN_WITHHELD = 3
NAMED = 8  # labels of the classes without a row
MOST_BITS = 32.0  # of a row that withholds nothing


def apply_policy(policy: Policy, known: Known) -> SparseLogits:
    """Pass what the model knows through the gate.

    Raises:
        ProtectionError: if the policy fails.
    """
    noise = known.noise if isinstance(policy, NoisyPolicy) else None
    return sanitize(policy, known.logits, noise=noise)


def answers(choice: Choice, known: Known) -> dict[str, SparseLogits]:
    """Return what leaves under the policy, under the tier, and as the label alone."""
    policy = apply_policy(choice.policy, known)
    label = Label(num_classes=choice.policy.num_classes)
    return {
        "policy": policy,
        "tier": tighten_to_tier(policy, choice.tier),
        "label": apply_policy(label, known),
    }


def policy_fields(choice: Choice) -> dict[str, Any]:
    """Describe the choice: what leaves in words, the text for settings, and what to know of it."""
    policy, tier = choice.policy, TierView.of(choice.policy, choice.tier)
    try:
        is_open = hides_nothing(policy)
        notes = policy_notes(policy)
    except (ProtectionError, TypeError):
        is_open, notes = False, ["a server refuses this policy: it fails on random rows"]
    if isinstance(policy, NoisyPolicy):
        notes.append("a server draws other noise, because it has another secret")
    return {
        "text": choice.text,
        "describe": policy.describe(),
        "fingerprint": policy.fingerprint,
        "form": policy.scores.value,
        "hides_nothing": is_open,
        "notes": notes,
        "tier": {
            "name": choice.tier_name,
            "describe": tier.describe(policy.num_classes),
            "fingerprint": tier.fingerprint,
            "form": tier.form.value,
        },
    }


def image_fields(choice: Choice, known: Known, manifest: BundleManifest) -> dict[str, Any]:
    """Return the rows of one image's classes, the highest logit first, and the bits that leave.

    Classes that leave have a row each, and of the withheld ones the highest few. The others are
    counted.
    """
    left = answers(choice, known)
    texts = {name: _texts(answer, manifest) for name, answer in left.items()}
    logits = known.logits[0].double()
    values: npt.NDArray[np.float64] = logits.numpy()
    # Of equal logits the lower index first, as the gate lists them.
    order = np.argsort(-values, kind="stable").tolist()
    out: set[int] = set().union(*texts.values())
    kept = [index for index in order if index in out]
    withheld = [index for index in order if index not in out]
    shown = {*kept[:SHOWN_KEPT], *withheld[:SHOWN_WITHHELD]}
    lowest, spread = values.min(), max(float(values.max() - values.min()), 1e-9)
    rows = [
        {
            "label": manifest.classes[index],
            "logit": f"{values[index]:.3f}",
            "bar": float(values[index] - lowest) / spread,
            "leaves": {name: text.get(index) for name, text in texts.items()},
        }
        for index in order
        if index in shown
    ]
    rest = [index for index in order if index not in shown]
    whole = apply_policy(Open(num_classes=len(manifest.classes)), known)
    return {
        "rows": rows,
        "rest": {
            "count": len(rest),
            "labels": [manifest.classes[index] for index in rest[:NAMED]],
            "leaves": {name: sum(index in text for index in rest) for name, text in texts.items()},
        },
        "bits": {name: float(row_bits(each)[0]) for name, each in {"model": whole, **left}.items()},
        "most_bits": MOST_BITS,
        "withheld": {name: len(order) - len(text) for name, text in texts.items()},
    }


def folder_fields(
    choice: Choice, known: Known, labels: npt.NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """Return the use of the answers to an honest client, and the mean bits of an image.

    Raises:
        ProtectionError: if the policy fails.
    """
    whole = apply_policy(Open(num_classes=choice.policy.num_classes), known)
    return {
        name: {**_use(answer, labels), "bits": float(row_bits(answer).mean())}
        for name, answer in {"model": whole, **answers(choice, known)}.items()
    }


def audit_fields(audit: AuditReport, choice: Choice, manifest: BundleManifest) -> dict[str, Any]:
    """Return what an audit measured of the policy, and of the policy under the tier."""
    fingerprints = {"policy": choice.policy.fingerprint}
    if choice.tier_name != FULL_TIER:
        fingerprints["tier"] = TierView.of(choice.policy, choice.tier).fingerprint
    return {
        "title": audit.title,
        "found": {
            name: _audited(audit, fingerprint, manifest)
            for name, fingerprint in fingerprints.items()
        },
    }


def _audited(
    audit: AuditReport, fingerprint: str, manifest: BundleManifest
) -> list[dict[str, Any]]:
    found = audit.find(fingerprint=fingerprint, version=manifest.version, names=(manifest.name,))
    return [
        {
            "name": endpoint.name,
            "model": f"{endpoint.model} {endpoint.version}",
            "leaks": [
                {**asdict(leak), "clear": leak.is_clear, "share": leak.share}
                for leak in audit.leaks(endpoint.name)
            ],
        }
        for endpoint in found
    ]


def _texts(answer: SparseLogits, manifest: BundleManifest) -> Mapping[int, str]:
    """Return the text of each class that leaves, by its index, as `stingy predict --raw` has it."""
    (row,) = answer_rows(answer, manifest.classes)
    return {
        entry["index"]: f"{entry['score']:.10g}" if "score" in entry else ""
        for entry in row["classes"]
    }


def _use(answer: SparseLogits, labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    scores = None if answer.scores is None else answer.scores.numpy()
    return utility(answer.indices.numpy(), scores, answer.form, labels).model_dump()
