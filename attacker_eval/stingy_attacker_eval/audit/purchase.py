"""Buying what an audit needs from its endpoints, checked against budget and key beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn

from stingy_attacker_eval.attacks import Capability
from stingy_attacker_eval.audit.protocol import EndpointEntry, Protocol
from stingy_attacker_eval.audit.run_folder import RunFolder
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.oracle.cached_oracle import CachedOracle
from stingy_attacker_eval.oracle.oracle import (
    Oracle,
    PinnedOracle,
    digest_answers,
    digest_labels,
    endpoint_identity,
)
from stingy_attacker_eval.oracle.transfer_set import TransferSet, buy, is_complete
from stingy_attacker_eval.progress import Reporter
from stingy_attacker_eval.training import percent_equal, predict, to_device
from stingy_attacker_eval.utility import Utility, utility
from stingy_clients import ModelInfo

_ALIKE = 99.0  # percent


@dataclass(frozen=True)
class PurchasedData:
    """What one endpoint sold: answers to learn from, answers to compare with, and what attacks
    asked for as they ran."""

    endpoint: EndpointEntry
    info: ModelInfo
    transfer: TransferSet
    evaluation: TransferSet
    oracle: CachedOracle
    teacher_accuracy: float
    utility: Utility

    def source(self) -> dict[str, object]:
        """What identifies the answers that students learn from and are compared with."""
        sold = {"transfer": self.transfer.answers, "evaluation": self.evaluation.answers}
        return endpoint_identity(self.info) | {
            name: digest_answers(part) for name, part in sold.items()
        }

    def facts(self) -> dict[str, object]:
        """The endpoint's entry in the report."""
        queries = self.transfer.queries, self.evaluation.queries, self.oracle.queries
        return {
            "name": self.endpoint.name,
            "defence": self.endpoint.defence,
            "policy": self.info.policy,
            "scores": self.info.scores,
            "decimals": self.info.decimals,
            "fingerprint": self.info.fingerprint,
            "model": self.info.name,
            "version": self.info.version,
            "support": self.info.support,
            "labels": digest_labels(self.transfer.answers),
            "num_classes": self.info.num_classes,
            "queries_transfer": queries[0],
            "queries_evaluation": queries[1],
            "queries_attacks": queries[2],
            "queries_spent": sum(queries),
            "queries_charged": (
                self.transfer.charged + self.evaluation.charged + self.oracle.reconcile_charges()
            ),
            "teacher_accuracy": self.teacher_accuracy,
            "utility": asdict(self.utility),
        }


def check_budget(protocol: Protocol, data: Dataset) -> None:
    """Raises AuditError, before a query is spent, when the attacks could ask for more."""
    extra = max(_attack_queries(protocol, endpoint, data) for endpoint in protocol.endpoints)
    wanted = len(data.train_x) + len(data.test_x) + extra
    if protocol.budget < wanted:
        raise AuditError(
            f"expected a budget of at least {wanted} images ({len(data.train_x)} to learn from, "
            f"{len(data.test_x)} to compare, {extra} for attacks that ask as they run), got "
            f"{protocol.budget}"
        )


def check_remaining(
    remaining: int, protocol: Protocol, data: Dataset, *, whole: bool = True
) -> None:
    """Raises AuditError, before a query is spent, when the key cannot pay for all endpoints.

    whole: whether all runs are done, and so all attacks ask what they may; else what is bought
    once is all that is certain.
    """
    once = len(protocol.endpoints) * (len(data.train_x) + len(data.test_x))
    extra = sum(_attack_queries(protocol, endpoint, data) for endpoint in protocol.endpoints)
    wanted = once + (extra if whole else 0)
    if remaining < wanted:
        raise AuditError(
            f"expected a key with at least {wanted} images left for {len(protocol.endpoints)} "
            f"endpoints ({wanted - once} for attacks that ask as they run), got one with "
            f"{remaining}: nothing was asked"
        )


def _attack_queries(protocol: Protocol, endpoint: EndpointEntry, data: Dataset) -> int:
    """The most that this endpoint's attacks ask for as they run, in images."""
    runs = len(protocol.students_of(endpoint)) * len(protocol.seeds)
    return sum(
        attack.budget(len(data.train_x)) * (runs if attack.per_run else 1)
        for attack in protocol.variants_of(endpoint)
        if Capability.IMAGES
        not in attack.requires  # those ask for what the audit has bought already
    )


def check_networks(
    purchases: Sequence[PurchasedData],
    networks: Mapping[str, nn.Module],
    data: Dataset,
    device: torch.device,
) -> None:
    """Raises AuditError naming each endpoint that answers other labels than its network has.

    networks: by endpoint, what white-box attacks are to see; another batch may move a label or so.
    """
    images = to_device(data.test_x, device)
    faults = []
    for item in purchases:
        if (network := networks.get(item.endpoint.name)) is None:
            continue
        labels = predict(network.to(device), images).numpy()
        alike = percent_equal(labels, item.evaluation.answers.top1)
        if alike < _ALIKE:
            faults.append(f"{item.endpoint.name}, where {alike:.1f} % of the labels are alike")
    if faults:
        raise AuditError(
            f"expected networks that the endpoints serve, got others for {'; '.join(faults)}"
        )


def buy_from(
    endpoint: EndpointEntry,
    oracle: Oracle,
    protocol: Protocol,
    data: Dataset,
    rows: RunFolder,
    reporter: Reporter,
) -> PurchasedData:
    """Everything bought once, in the folder of the rows, which are then of these answers alone.

    Raises AuditError, before a query is spent where it can be told, when the rows are of others;
    TransferError as `buy` does.
    """
    oracle = PinnedOracle(oracle)
    info = oracle.describe()
    if info.num_classes != data.num_classes:
        raise AuditError(
            f"expected {data.num_classes} classes from {endpoint.name} as in {data.name}, "
            f"got {info.num_classes}"
        )
    folder = rows.path / "bought" / endpoint.name
    parts = folder / "transfer", folder / "evaluation"
    rows.check_source(endpoint.name, endpoint_identity(info), bought=all(map(is_complete, parts)))
    purchased_once = len(data.train_x) + len(data.test_x)
    cached = CachedOracle(oracle, folder=folder / "asked", budget=protocol.budget - purchased_once)
    total, done = len(data.train_x) + len(data.test_x), 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        reporter.step(done, total, f"buying from {endpoint.name}")

    transfer = buy(oracle, data.train_x, budget=protocol.budget, folder=parts[0], progress=progress)
    evaluation = buy(
        oracle,
        data.test_x,
        budget=protocol.budget - transfer.queries,
        folder=parts[1],
        progress=progress,
    )
    cached.add(data.train_x, transfer.answers)
    answers = evaluation.answers
    bought = PurchasedData(
        endpoint=endpoint,
        info=info,
        transfer=transfer,
        evaluation=evaluation,
        oracle=cached,
        teacher_accuracy=percent_equal(evaluation.answers.top1, data.test_y),
        utility=utility(answers.indices, answers.scores, answers.form, data.test_y),
    )
    rows.bind(endpoint.name, bought.source())
    return bought
