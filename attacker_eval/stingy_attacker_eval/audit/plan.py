"""The plan of an audit: the students to train, and the data of each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from stingy_attacker_eval.attacks import Attack, AttackerData, Capability
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.purchase import PurchasedData
from stingy_attacker_eval.audit.runs import Run
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.oracle.oracle import digest_labels
from stingy_attacker_eval.report_schema import SkippedAttack
from stingy_attacker_eval.results import NO_ENDPOINT
from stingy_attacker_eval.training import to_device


@dataclass(frozen=True)
class Job:
    """One student to train, with everything its training needs.

    purchase: what the endpoint sold; None for the baseline.
    partner: what the second tier sold, if the attack has one.
    budget: the number of images the attacker may use; None for all.
    duplicate_of: an earlier run that trains an identical student; its result is reused. A job has
        one if its attack reads labels only, and both endpoints sold equal labels.
    """

    purchase: PurchasedData | None
    partner: PurchasedData | None
    attack: Attack
    attacker_data: AttackerData
    student: str
    seed: int
    budget: int | None = None
    duplicate_of: Run | None = None

    @property
    def run(self) -> Run:
        endpoint = self.purchase.endpoint.name if self.purchase else NO_ENDPOINT
        return Run(endpoint, self.attack.label, self.student, self.seed, self.budget)

    @property
    def queries_endpoint(self) -> bool:
        """True if the attack queries the endpoint while it runs."""
        return Capability.QUERIES in self.attack.requires

    @property
    def transfer_queries(self) -> int:
        """The number of answers bought once that the attack trains on."""
        if not self.attack.needs & {Capability.ANSWERS, Capability.SCORES}:
            return 0
        partner = None if self.attack.partner_is_truth else self.partner
        sources = [source for source in (self.purchase, partner) if source]
        return sum(self.budget or len(source.transfer) for source in sources)


def plan_jobs(
    protocol: Protocol,
    dataset: Dataset,
    purchases: list[PurchasedData],
    device: torch.device,
    networks: Mapping[str, nn.Module],
) -> tuple[list[Job], list[SkippedAttack]]:
    """Return the jobs, and separately the attacks that cannot run.

    The baseline comes first, because every uplift is counted from it.
    """
    jobs: list[Job] = []
    skipped: list[SkippedAttack] = []
    images = to_device(dataset.train_x, device)
    labels = torch.from_numpy(dataset.train_y).to(device)

    def add(
        purchase: PurchasedData | None,
        partner: PurchasedData | None,
        attack: Attack,
        attacker_data: AttackerData,
    ) -> None:
        has_budgets = attack.trains_on_fixed_answers or purchase is None
        jobs.extend(
            Job(purchase, partner, attack, data, student, seed, budget)
            for budget in (None, *(protocol.budgets if has_budgets else ()))
            for data in (attacker_data if budget is None else attacker_data.first(budget),)
            for student in protocol.students_of(purchase.endpoint if purchase else None)
            for seed in protocol.seeds
        )

    add(None, None, NoApi(), AttackerData(images, labels=labels))
    by_name = {purchase.endpoint.name: purchase for purchase in purchases}
    data_by_name = {
        name: _attacker_data(purchase, images, labels, networks.get(name))
        for name, purchase in by_name.items()
    }
    for name, purchase in by_name.items():
        for attack in protocol.variants_of(purchase.endpoint):
            other = attack.partner_name()
            partner = by_name.get(other) if other is not None and other != name else None
            data = data_by_name[name]
            if partner is not None:
                data = replace(data, partner=data_by_name[partner.endpoint.name])
            reason = attack.skip_reason(data)
            if reason is None:
                add(purchase, partner, attack, data)
            else:
                skipped.append(SkippedAttack(endpoint=name, attack=attack.label, reason=reason))
    return jobs, skipped


def mark_duplicates(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs; a job that would repeat an earlier job's student refers to that job."""
    first: dict[tuple[object, ...], Run] = {}
    marked = []
    for job in jobs:
        if job.purchase is None or job.queries_endpoint or not job.attack.reads_top1_only:
            marked.append(job)
            continue
        answers = job.purchase.transfer, job.purchase.evaluation
        labels = tuple(digest_labels(part) for part in answers)
        same = job.attack.label, job.student, job.seed, job.budget, labels
        original = first.setdefault(same, job.run)
        marked.append(job if original == job.run else replace(job, duplicate_of=original))
    return marked


def _attacker_data(
    purchase: PurchasedData, images: torch.Tensor, labels: torch.Tensor, network: nn.Module | None
) -> AttackerData:
    """Return the data that an attacker of this endpoint has before a run begins."""
    data = AttackerData.from_answers(images, labels, purchase.transfer, purchase.info)
    teacher = network.to(images.device).eval() if network is not None else None
    return replace(data, network=teacher)
