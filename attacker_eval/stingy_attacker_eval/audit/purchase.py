"""The purchase of an audit's answers. Classes, budget and key are checked before any query."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.audit.protocol import EndpointEntry, Protocol
from stingy_attacker_eval.audit.protocol_faults import extra_queries, extra_text
from stingy_attacker_eval.audit.run_folder import RunFolder
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.errors import AnswersError, AuditError
from stingy_attacker_eval.oracle.cached_oracle import CachedOracle, image_digests
from stingy_attacker_eval.oracle.class_order import OrderedOracle
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
from stingy_attacker_eval.training import percent_equal, to_device
from stingy_clients import ModelInfo, NotFound
from stingy_clients.utility import Utility, utility

_LEAST_AGREEMENT = 99.0  # percent


@dataclass(frozen=True)
class PurchasedData:
    """The answers that one endpoint sold.

    transfer: the answers for the training images, in their order.
    evaluation: the answers for the test images.
    distinct: the number of distinct training images, and of distinct test images beside them.
    oracle: the cache of all answers, which attacks query while they run.
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
        """Return the identity of the answers that students are trained on and compared with."""
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


def match_classes(
    protocol: Protocol, oracles: Mapping[str, Oracle], data: Dataset
) -> tuple[dict[str, OrderedOracle], list[str]]:
    """Return the endpoints' oracles, pinned, with the data's class indices. No query is spent.

    Also return a fault for each endpoint that is not served, or whose labels are not the data's
    class names.
    """
    found: dict[str, OrderedOracle] = {}
    faults = []
    for endpoint in protocol.endpoints:
        try:
            pinned = PinnedOracle(oracles[endpoint.name])
            found[endpoint.name] = OrderedOracle(pinned, data.class_names)
        except AnswersError as error:
            faults.append(f"{endpoint.name}: {error}")
        except NotFound as error:
            faults.append(f"{endpoint.name}: {endpoint.model}: {error}")
    return found, faults


def remaining_faults(
    remaining: int | None, protocol: Protocol, data: Dataset, *, whole: bool = True
) -> list[str]:
    """Return a fault if the key has too few images left for all endpoints.

    remaining: images left to the key; None if it has no limit.
    whole: True if all runs are done, so that all attacks may query their most. If False, only the
        answers bought once are counted, because they alone are certain.
    """
    once = len(protocol.endpoints) * (len(data.train_x) + len(data.test_x))
    extra = sum(extra_queries(protocol, endpoint, data) for endpoint in protocol.endpoints)
    needed = once + (extra if whole else 0)
    if remaining is None or remaining >= needed:
        return []
    return [
        f"expected a key with at least {needed} images left for {len(protocol.endpoints)} "
        f"endpoints ({needed - once} for {extra_text(protocol)}), got one with "
        f"{remaining}: nothing was sent"
    ]


def check_networks(
    purchases: Sequence[PurchasedData],
    networks: Mapping[str, nn.Module],
    data: Dataset,
    device: torch.device,
) -> None:
    """Check that each endpoint answers the labels of its network.

    Up to one percent of the labels may differ, because another batch may move a few of them. The
    networks compute in float32, as servers do, because bfloat16 moves more than that.

    networks: by endpoint, the network that white-box attacks read.

    Raises AuditError, which names each endpoint that answers other labels.
    """
    images = to_device(data.test_x, device)
    faults = []
    for item in purchases:
        if (network := networks.get(item.endpoint.name)) is None:
            continue
        labels = compute_logits(network.to(device), images).argmax(1).cpu().numpy()
        agreement = percent_equal(labels, item.evaluation.top1)
        if agreement < _LEAST_AGREEMENT:
            faults.append(f"{item.endpoint.name}, where {agreement:.1f} % of the labels are alike")
    if faults:
        raise AuditError(
            f"expected networks that the endpoints serve, got others for {'; '.join(faults)}"
        )


def buy_from(
    endpoint: EndpointEntry,
    oracle: OrderedOracle,
    protocol: Protocol,
    dataset: Dataset,
    folder: RunFolder,
    reporter: Reporter,
) -> PurchasedData:
    """Buy everything that is bought once, and bind the endpoint's rows to these answers.

    Raises AuditError if the rows in the folder were trained on other answers, before an image is
    sent if the endpoint's description shows it. Raises TransferError as `buy_answers` does.
    """
    info = oracle.describe()
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
