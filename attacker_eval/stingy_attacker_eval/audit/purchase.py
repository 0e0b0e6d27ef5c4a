"""The purchase of an audit's answers, checked against budget and key beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from stingy_attacker_eval.attacks import Capability
from stingy_attacker_eval.audit.protocol import EndpointEntry, Protocol
from stingy_attacker_eval.audit.run_folder import RunFolder
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.oracle.cached_oracle import CachedOracle, image_digests
from stingy_attacker_eval.oracle.oracle import (
    Answers,
    Oracle,
    PinnedOracle,
    digest_answers,
    digest_labels,
    endpoint_identity,
)
from stingy_attacker_eval.oracle.transfer_set import buy_answers
from stingy_attacker_eval.progress import Counter, Reporter
from stingy_attacker_eval.report_schema import EndpointResult
from stingy_attacker_eval.training import percent_equal, predict, to_device
from stingy_attacker_eval.utility import Utility, utility
from stingy_clients import ModelInfo

_ALIKE = 99.0  # percent


@dataclass(frozen=True)
class PurchasedData:
    """The answers that one endpoint sold.

    transfer: the answers for the training images, in their order.
    evaluation: the answers for the test images.
    distinct: how many distinct images those are, first the training images, then the rest.
    oracle: the cache of all answers, which attacks query as they run.
    teacher_accuracy: percent of the test images.
    """

    endpoint: EndpointEntry
    info: ModelInfo
    transfer: Answers
    evaluation: Answers
    distinct: tuple[int, int]
    oracle: CachedOracle
    teacher_accuracy: float
    utility: Utility

    def source(self) -> dict[str, object]:
        """Return what identifies the answers that students are trained on and compared with."""
        return endpoint_identity(self.info) | {
            "transfer": digest_answers(self.transfer),
            "evaluation": digest_answers(self.evaluation),
        }

    def result(self, *, best: str | None) -> EndpointResult:
        """Return the endpoint's entry in the report; best: the label of its best attack."""
        queries = self.oracle.queries
        return EndpointResult(
            name=self.endpoint.name,
            defence=self.endpoint.defence,
            policy=self.info.policy,
            scores=self.info.scores,
            decimals=self.info.decimals,
            fingerprint=self.info.fingerprint,
            model=self.info.name,
            version=self.info.version,
            support=self.info.support,
            labels=digest_labels(self.transfer),
            num_classes=self.info.num_classes,
            queries_transfer=self.distinct[0],
            queries_evaluation=self.distinct[1],
            queries_attacks=queries - sum(self.distinct),
            queries_spent=queries,
            queries_charged=self.oracle.reconcile_charges(),
            teacher_accuracy=self.teacher_accuracy,
            utility=self.utility,
            best=best,
        )


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
        if Capability.IMAGES not in attack.requires  # they query what the audit has bought
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
        alike = percent_equal(labels, item.evaluation.top1)
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
    dataset: Dataset,
    folder: RunFolder,
    reporter: Reporter,
) -> PurchasedData:
    """Buy everything that is bought once, and bind the endpoint's rows to these answers.

    Raises AuditError if the rows in the folder were trained on other answers, before an image is
    sent if the endpoint's description shows it. Raises TransferError as `buy_answers` does.
    """
    oracle = PinnedOracle(oracle)
    info = oracle.describe()
    if info.num_classes != dataset.num_classes:
        raise AuditError(
            f"expected {dataset.num_classes} classes from {endpoint.name} as in {dataset.name}, "
            f"got {info.num_classes}"
        )
    folder.check_source(endpoint.name, endpoint_identity(info))
    answers_folder = folder.path / "answers" / endpoint.name
    cached = CachedOracle(oracle, folder=answers_folder, budget=protocol.budget)
    total = len(dataset.train_x) + len(dataset.test_x)
    progress = Counter(reporter, total, f"buying from {endpoint.name}")
    transfer = buy_answers(cached, dataset.train_x, progress=progress)
    evaluation = buy_answers(cached, dataset.test_x, progress=progress)
    train_images = set(image_digests(dataset.train_x))
    test_images = set(image_digests(dataset.test_x)) - train_images
    purchase = PurchasedData(
        endpoint=endpoint,
        info=info,
        transfer=transfer,
        evaluation=evaluation,
        distinct=(len(train_images), len(test_images)),
        oracle=cached,
        teacher_accuracy=percent_equal(evaluation.top1, dataset.test_y),
        utility=utility(evaluation.indices, evaluation.scores, evaluation.form, dataset.test_y),
    )
    folder.bind(endpoint.name, purchase.source())
    return purchase
