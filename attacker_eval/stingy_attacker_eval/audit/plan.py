"""Which students an audit trains, and what each of them learns from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from stingy_attacker_eval.attacks import Attack, Material, Need
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.purchase import Bought
from stingy_attacker_eval.audit.runs import Run
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.oracle.oracle import digest_labels
from stingy_attacker_eval.results import NO_ENDPOINT
from stingy_attacker_eval.training import to_device


@dataclass(frozen=True)
class Job:
    """Everything one trained student needs to know.

    budget: how many of the images it may use, None for all. twin: the run whose student this one
    is as well: the attack reads nothing but labels, and both endpoints sold the same.
    """

    bought: Bought | None
    partner: Bought | None
    attack: Attack
    material: Material
    student: str
    seed: int
    budget: int | None = None
    twin: Run | None = None

    @property
    def run(self) -> Run:
        endpoint = self.bought.endpoint.name if self.bought else NO_ENDPOINT
        return Run(endpoint, self.attack.label, self.student, self.seed, self.budget)

    @property
    def asks(self) -> bool:
        """Whether it asks the endpoint as it runs."""
        return Need.QUERIES in self.attack.needs

    @property
    def queries_bought(self) -> int:
        """What the attack learns from of the answers bought once, in images."""
        if not self.attack.needs & {Need.ANSWERS, Need.SCORES}:
            return 0
        sources = [source for source in (self.bought, self.partner) if source]
        return sum(self.budget or source.transfer.queries for source in sources)


def plan_jobs(
    protocol: Protocol,
    data: Dataset,
    bought: list[Bought],
    device: torch.device,
    networks: Mapping[str, nn.Module],
) -> tuple[list[Job], list[dict[str, str]]]:
    """Baseline first: every uplift is counted from it. Attacks that cannot run are told apart."""
    jobs: list[Job] = []
    skipped: list[dict[str, str]] = []
    images = to_device(data.train_x, device)
    labels = torch.from_numpy(data.train_y).to(device)

    def add(
        source: Bought | None, partner: Bought | None, attack: Attack, material: Material
    ) -> None:
        tried = attack.learns_from_answers_alone or source is None
        jobs.extend(
            Job(source, partner, attack, held, student, seed, budget)
            for budget in (None, *(protocol.budgets if tried else ()))
            for held in (material if budget is None else material.first(budget),)
            for student in protocol.students_of(source.endpoint if source else None)
            for seed in protocol.seeds
        )

    add(None, None, NoApi(), Material(images, labels=labels))
    sources = {source.endpoint.name: source for source in bought}
    materials = {
        name: _material(source, images, labels, networks.get(name))
        for name, source in sources.items()
    }
    for name, source in sources.items():
        for attack in protocol.variants_of(source.endpoint):
            other = attack.partner_name()
            partner = sources.get(other) if other is not None and other != name else None
            material = materials[name]
            if partner is not None:
                material = replace(material, partner=materials[partner.endpoint.name])
            refusal = attack.refusal(material)
            if refusal is None:
                add(source, partner, attack, material)
            else:
                skipped.append({"endpoint": name, "attack": attack.label, "reason": refusal})
    return jobs, skipped


def with_twins(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, each that would train the student of an earlier one again pointing to that one."""
    first: dict[tuple[object, ...], Run] = {}
    found = []
    for job in jobs:
        if job.bought is None or not job.attack.reads_top1_alone:
            found.append(job)
            continue
        sold = job.bought.transfer, job.bought.evaluation
        labels = tuple(digest_labels(part.answers) for part in sold)
        same = job.attack.label, job.student, job.seed, job.budget, labels
        original = first.setdefault(same, job.run)
        found.append(job if original == job.run else replace(job, twin=original))
    return found


def _material(
    source: Bought, images: torch.Tensor, labels: torch.Tensor, network: nn.Module | None
) -> Material:
    """What an attacker of this endpoint has before a run begins."""
    material = Material.of(images, labels, source.transfer.answers, source.info)
    seen = network.to(images.device).eval() if network is not None else None
    return replace(material, network=seen)
