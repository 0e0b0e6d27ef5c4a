"""The configuration of an audit: everything that decides its numbers, except the answers."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from stingy_attacker_eval.attacks import Attack
from stingy_attacker_eval.audit.attackers import baseline_attack
from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.oracle.transfer_set import digest_images
from stingy_attacker_eval.report_schema import AttackSettings, AuditConfig, EndpointConfig
from stingy_attacker_eval.students import student_spec


def audit_config(protocol: Protocol, dataset: Dataset) -> AuditConfig:
    """Return the protocol with its grids expanded, and the digests of the data set."""
    return AuditConfig(
        **protocol.model_dump(exclude={"attacks", "endpoints"}),
        attacks=_settings((*map(baseline_attack, protocol.attackers), *protocol.variants)),
        endpoints=tuple(
            EndpointConfig(
                **endpoint.model_dump(exclude={"attacks"}), attacks=_settings(endpoint.variants)
            )
            for endpoint in protocol.endpoints
        ),
        student_widths={name: student_spec(name).width for name in protocol.students},
        train_digest=digest_images(dataset.train_x),
        test_digest=digest_images(dataset.test_x),
        train_labels_digest=_digest_labels(dataset.train_y),
        test_labels_digest=_digest_labels(dataset.test_y),
    )


def _settings(attacks: Iterable[Attack]) -> AttackSettings:
    return {attack.label: attack.settings() for attack in attacks}


def _digest_labels(labels: NDArray[np.int64]) -> str:
    return hashlib.sha256(labels.tobytes()).hexdigest()
