"""The plan of an audit: the students to train, and the data of each of them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stingy_attacker_eval.attacks import Attack, AttackerData, Capability
from stingy_attacker_eval.audit.attackers import (
    baseline_attack,
    baseline_data,
    buys_answers,
    impossible_reason,
    purchased_data,
)
from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.purchase import PurchasedData
from stingy_attacker_eval.audit.runs import Run
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.oracle.oracle import digest_labels, scores_unsupported_reason
from stingy_attacker_eval.report_schema import Attacker, SkippedAttack
from stingy_attacker_eval.results import NO_ENDPOINT
from stingy_attacker_eval.training import to_device
from stingy_clients import ModelInfo


@dataclass(frozen=True)
class Job:
    """One student to train, with everything its training needs.

    purchase: what the endpoint sold; None for the baseline.
    partner: what the second tier sold, if the attack has one.
    budget: the number of images the attacker may use; None for all that it owns.
    duplicate_of: an earlier run that trains an identical student; its result is reused.
    """

    attacker: Attacker
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
        return Run(
            endpoint, self.attack.label, self.student, self.seed, self.budget, self.attacker.name
        )

    @property
    def queries_endpoint(self) -> bool:
        """True if the attack queries the endpoint while it runs."""
        return Capability.QUERIES in self.attack.needs

    @property
    def transfer_queries(self) -> int:
        """The number of answers bought once that the attack trains on."""
        count = len(self.attacker_data.images)
        if self.purchase is None or not buys_answers(self.attack, self.attacker, count):
            return 0
        buys_twice = self.partner is not None and not self.attack.partner_is_truth
        return count * (2 if buys_twice else 1)


def plan_jobs(
    protocol: Protocol,
    dataset: Dataset,
    purchases: list[PurchasedData],
    device: torch.device,
    networks: Mapping[str, nn.Module],
) -> tuple[list[Job], list[SkippedAttack]]:
    """Return the jobs of every attacker, and separately the attacks that cannot run.

    The baselines come first, because every uplift is counted from them.
    """
    images = to_device(dataset.train_x, device)
    labels = torch.from_numpy(dataset.train_y).to(device)
    data = {
        purchase.endpoint.name: _attacker_data(
            purchase, images, labels, networks.get(purchase.endpoint.name)
        )
        for purchase in purchases
    }
    jobs: list[Job] = []
    skipped: list[SkippedAttack] = []
    for attacker in protocol.attackers:
        jobs += _baseline_jobs(protocol, attacker, images, labels)
    for attacker in protocol.attackers:
        found, left = _attack_jobs(protocol, attacker, purchases, data, len(images))
        jobs += found
        skipped += left
    return jobs, skipped


def possible_runs(
    protocol: Protocol,
    infos: Mapping[str, ModelInfo],
    networks: Mapping[str, nn.Module],
    images: int,
) -> tuple[list[Run], list[str]]:
    """Return the runs that the endpoints' descriptions allow, before anything is bought.

    Also return a fault for each attack that can run on no endpoint, or not on the one that it is
    listed for, and for each endpoint without an attack that is no other's second tier. It is no
    fault beside other attacks if an attack on all endpoints lacks scores, or if a white-box attack
    lacks the network.

    infos: the descriptions of all endpoints, or of those that can be audited, by endpoint.
    images: of the protocol.
    """
    described = [endpoint for endpoint in protocol.endpoints if endpoint.name in infos]
    reasons = {
        (endpoint.name, attack.label): _described_reason(attack, endpoint.name, infos, networks)
        for endpoint in described
        for attack in protocol.variants_of(endpoint)
    }
    lacking = {name: scores_unsupported_reason(info.scores) for name, info in infos.items()}
    faults = []
    for attack in protocol.variants if len(described) == len(protocol.endpoints) else ():
        found = {name: reasons[name, attack.label] for name in infos}
        if None not in found.values() and found != lacking and not _is_white_box(attack):
            reason = next(iter(found.values()))
            faults.append(
                f"expected an endpoint on which {attack.label} can run, got none: it {reason}"
            )
    runs = [
        Run(NO_ENDPOINT, baseline_attack(attacker).label, student, seed, None, attacker.name)
        for attacker in protocol.attackers
        for student in protocol.students_of(None)
        for seed in protocol.all_seeds
    ]
    partners = {a.partner_name() for e in protocol.endpoints for a in protocol.variants_of(e)}
    for endpoint in described:
        own = {attack.label: reasons[endpoint.name, attack.label] for attack in endpoint.variants}
        faults += [
            f"{endpoint.name}: expected attacks that can run there, got {attack.label}, which "
            f"{own[attack.label]}"
            for attack in endpoint.variants
            if own[attack.label] is not None and not _is_white_box(attack)
        ]
        attacks = protocol.variants_of(endpoint)
        able = [attack for attack in attacks if reasons[endpoint.name, attack.label] is None]
        if attacks and not able and endpoint.name not in partners:
            first = attacks[0].label
            faults.append(
                f"{endpoint.name}: expected an attack that can run there, got none: {first} "
                f"{reasons[endpoint.name, first]}"
            )
        runs += [
            Run(endpoint.name, attack.label, student, seed, None, attacker.name)
            for attacker in protocol.attackers
            for attack in able
            if impossible_reason(attack, attacker, attacker.owned(images)) is None
            for student in protocol.students_of(endpoint)
            for seed in protocol.all_seeds
        ]
    return runs, faults


def _is_white_box(attack: Attack) -> bool:
    return Capability.WHITE_BOX in attack.needs


def _described_reason(
    attack: Attack, name: str, infos: Mapping[str, ModelInfo], networks: Mapping[str, nn.Module]
) -> str | None:
    """Return why the attack cannot run on this endpoint, as far as its description says it."""
    other = attack.partner_name()
    nothing = torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    partner = None
    if other is not None and other != name:
        partner = AttackerData(nothing, info=infos.get(other))
    return attack.skip_reason(
        AttackerData(nothing, info=infos[name], network=networks.get(name), partner=partner)
    )


def _baseline_jobs(
    protocol: Protocol, attacker: Attacker, images: Tensor, labels: Tensor
) -> list[Job]:
    return [
        Job(attacker, None, None, baseline_attack(attacker), data, student, seed, budget)
        for budget in (None, *protocol.budgets_of(attacker))
        for data in (
            baseline_data(attacker, images, labels, budget or attacker.owned(len(images))),
        )
        for student in protocol.students_of(None)
        for seed in protocol.all_seeds
    ]


def _attack_jobs(
    protocol: Protocol,
    attacker: Attacker,
    purchases: Sequence[PurchasedData],
    data: Mapping[str, AttackerData],
    images: int,
) -> tuple[list[Job], list[SkippedAttack]]:
    """Return one attacker's jobs on all endpoints, and its attacks that cannot run.

    data: by endpoint, of an attacker that owns everything.
    images: of the protocol.
    """
    jobs: list[Job] = []
    skipped: list[SkippedAttack] = []
    by_name = {purchase.endpoint.name: purchase for purchase in purchases}
    owned = attacker.owned(images)
    for name, purchase in by_name.items():
        for attack in protocol.variants_of(purchase.endpoint):
            other = attack.partner_name()
            partner = by_name.get(other) if other is not None and other != name else None
            all_data = data[name]
            if partner is not None:
                all_data = replace(all_data, partner=data[partner.endpoint.name])
            beyond = impossible_reason(attack, attacker, owned)
            reason = beyond or attack.skip_reason(all_data)
            if reason is not None:
                skipped.append(
                    SkippedAttack(
                        endpoint=name,
                        attack=attack.label,
                        reason=reason,
                        attacker=attacker.name,
                        beyond=beyond is not None,
                    )
                )
                continue
            smaller = protocol.budgets_of(attacker) if attack.trains_on_fixed_answers else ()
            jobs += [
                Job(attacker, purchase, partner, attack, run_data, student, seed, budget)
                for budget in (None, *smaller)
                for run_data in (purchased_data(attacker, all_data, budget or owned),)
                for student in protocol.students_of(purchase.endpoint)
                for seed in protocol.all_seeds
            ]
    return jobs, skipped


def mark_duplicates(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs; a job that would repeat an earlier job's student refers to that job.

    Two students are identical if attack, network, seed and everything that the attack reads are:
    the images, the labels if it uses any, and the answers. An attack that reads labels alone trains
    the same student on two endpoints that sold equal labels, unless it queries them while it runs.
    One that reads no answer does so on endpoints whose labels for the test images are equal, since
    its agreement is the same too. Any other attack does so only for two attackers of one endpoint.
    """
    first: dict[tuple[object, ...], Run] = {}
    digests: dict[int, str] = {}
    marked = []
    for job in jobs:
        same = (
            job.attack.label,
            job.student,
            job.seed,
            job.attacker.pretrained,
            len(job.attacker_data.images),
            _labels_digest(job, digests) if job.attack.uses_true_labels else "",
            _answers_digest(job),
        )
        original = first.setdefault(same, job.run)
        marked.append(job if original == job.run else replace(job, duplicate_of=original))
    return marked


def _labels_digest(job: Job, digests: dict[int, str]) -> str:
    """Return the SHA-256 of the labels that the job's attacker trains on.

    digests: those computed so far, by the identity of the tensor.
    """
    labels = job.attacker_data.labels
    if labels is None:
        return ""
    if id(labels) not in digests:
        digests[id(labels)] = hashlib.sha256(labels.cpu().numpy().tobytes()).hexdigest()
    return digests[id(labels)]


def _answers_digest(job: Job) -> tuple[str, ...]:
    """Return what two jobs share if their attacks read equal answers."""
    if job.purchase is None:
        return ()
    if job.attack.needs <= {Capability.LABELS, Capability.IMAGES}:
        return ("", digest_labels(job.purchase.evaluation))
    if job.attack.reads_top1_only and not job.queries_endpoint:
        return digest_labels(job.purchase.transfer), digest_labels(job.purchase.evaluation)
    return (job.purchase.endpoint.name,)


def _attacker_data(
    purchase: PurchasedData, images: Tensor, labels: Tensor, network: nn.Module | None
) -> AttackerData:
    """Return the data of an attacker of this endpoint that owns every image and label."""
    data = AttackerData.from_answers(images, labels, purchase.transfer, purchase.info)
    teacher = network.to(images.device).eval() if network is not None else None
    return replace(data, network=teacher)
