"""A whole audit: buy, learn, compare; what is finished is never done or paid for twice."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from stingy_attacker_eval.attacks import Attack, Material, Need
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.data import Dataset
from stingy_attacker_eval.environment import default_device, describe_environment
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import locked, write_json
from stingy_attacker_eval.oracle import Oracle, dense_logits, scores_refusal
from stingy_attacker_eval.progress import Reporter, reporting
from stingy_attacker_eval.protocol import NO_ENDPOINT, Endpoint, Protocol
from stingy_attacker_eval.results import Row, baseline_accuracy, best_attacks, summarise
from stingy_attacker_eval.run_folder import RunFolder
from stingy_attacker_eval.session import KeptOracle, Session
from stingy_attacker_eval.sharding import Run, Shard, choose
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.train import percent_equal, predict, to_device
from stingy_attacker_eval.transfer import TransferSet, buy, digest_images
from stingy_attacker_eval.utility import Utility, utility
from stingy_clients import ModelInfo

SCHEMA = "stingy.audit/1"


@dataclass(frozen=True)
class _Bought:
    """What one endpoint sold: answers to learn from, answers to compare with, and what attacks
    asked for as they ran."""

    endpoint: Endpoint
    info: ModelInfo
    transfer: TransferSet
    evaluation: TransferSet
    kept: KeptOracle
    teacher_accuracy: float
    utility: Utility

    def facts(self) -> dict[str, object]:
        """The endpoint's entry in the report."""
        queries = self.transfer.queries, self.evaluation.queries, self.kept.asked
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
            "num_classes": self.info.num_classes,
            "queries_transfer": queries[0],
            "queries_evaluation": queries[1],
            "queries_attacks": queries[2],
            "queries_spent": sum(queries),
            "queries_charged": (
                self.transfer.charged + self.evaluation.charged + self.kept.settle()
            ),
            "teacher_accuracy": self.teacher_accuracy,
            "utility": asdict(self.utility),
        }


@dataclass(frozen=True)
class _Job:
    """Everything one trained student needs to know."""

    bought: _Bought | None
    partner: _Bought | None
    attack: Attack
    material: Material
    student: str
    seed: int

    @property
    def run(self) -> Run:
        endpoint = self.bought.endpoint.name if self.bought else NO_ENDPOINT
        return Run(endpoint, self.attack.label, self.student, self.seed)

    @property
    def queries_bought(self) -> int:
        """What the attack learns from of the answers bought once, in images."""
        if not self.attack.needs & {Need.ANSWERS, Need.SCORES}:
            return 0
        return sum(source.transfer.queries for source in (self.bought, self.partner) if source)


def run_audit(
    protocol: Protocol,
    *,
    oracles: Mapping[str, Oracle],
    out: Path,
    console: Console | None = None,
    networks: Mapping[str, nn.Module] | None = None,
    only: Sequence[str] = (),
    shard: Shard | None = None,
    remaining: int | None = None,
) -> dict[str, object]:
    """Run the protocol against its endpoints' oracles (by endpoint name) and write OUT.

    networks: the endpoints' teachers, for white-box attacks; without one those are skipped.
    only, shard: which of the runs to do now, as `sharding.choose` has it; what other calls did in
    the same folder is in the report too. remaining: images left to the key, where it has a limit.
    OUT/rows.jsonl grows by a row a run; a second call does only what is missing. Returns what
    OUT/report.json holds. Raises TransferError, AuditError or ProtocolError; Ctrl-C keeps all.
    """
    absent = sorted({endpoint.name for endpoint in protocol.endpoints} - set(oracles))
    if absent:
        raise AuditError(f"expected an oracle for every endpoint, got none for {', '.join(absent)}")
    data = protocol.load()
    device = default_device()
    _check_budget(protocol, data)
    if remaining is not None and not (out / "config.json").exists():
        _check_remaining(remaining, protocol, data)
    with locked(out), reporting(console or Console()) as reporter:
        folder = RunFolder(out, _config(protocol, data))
        bought = [
            _buy(endpoint, oracles[endpoint.name], protocol, data, out, reporter)
            for endpoint in protocol.endpoints
        ]
        jobs, skipped = _jobs(protocol, data, bought, device, networks or {})
        chosen = set(choose([job.run for job in jobs], only=only, shard=shard))
        jobs = [job for job in jobs if job.run in chosen or folder.get(*job.run.key) is not None]
        rows = _run(jobs, folder, protocol, data, device, reporter)
        summaries = summarise(rows)
        best = {name: summary.attack for name, summary in best_attacks(summaries).items()}
        report: dict[str, object] = {
            "schema": SCHEMA,
            "config": _config(protocol, data),
            "environment": describe_environment(device),
            "endpoints": [item.facts() | {"best": best.get(item.endpoint.name)} for item in bought],
            "rows": [asdict(row) for row in rows],
            "summary": [asdict(summary) for summary in summaries],
            "skipped": skipped,
        }
        write_json(out / "report.json", report)
    return report


def _config(protocol: Protocol, data: Dataset) -> dict[str, object]:
    """All that decides the numbers, but for the endpoints' answers (the transfer sets know)."""
    attacks = {attack.label: attack.settings() for attack in (NoApi(), *protocol.variants)}
    return {
        **protocol.model_dump(mode="json", exclude={"attacks"}),
        "attacks": attacks,
        "student_widths": {name: student_spec(name).width for name in protocol.students},
        "train_digest": digest_images(data.train_x),
        "test_digest": digest_images(data.test_x),
    }


def _check_budget(protocol: Protocol, data: Dataset) -> None:
    """Raises AuditError, before a query is spent, when the attacks could ask for more."""
    runs = len(protocol.students_of(None)) * len(protocol.seeds)
    extra = sum(
        attack.budget(len(data.train_x)) * (runs if attack.per_run else 1)
        for attack in protocol.variants
        if Need.IMAGES not in attack.needs  # those ask for what the audit has bought already
    )
    wanted = len(data.train_x) + len(data.test_x) + extra
    if protocol.budget < wanted:
        raise AuditError(
            f"expected a budget of at least {wanted} images ({len(data.train_x)} to learn from, "
            f"{len(data.test_x)} to compare, {extra} for attacks that ask as they run), got "
            f"{protocol.budget}"
        )


def _check_remaining(remaining: int, protocol: Protocol, data: Dataset) -> None:
    """Raises AuditError, before a query is spent, when the key cannot pay for all endpoints."""
    wanted = len(protocol.endpoints) * (len(data.train_x) + len(data.test_x))
    if remaining < wanted:
        raise AuditError(
            f"expected a key with at least {wanted} images left for {len(protocol.endpoints)} "
            f"endpoints, got one with {remaining}: nothing was asked"
        )


def _buy(
    endpoint: Endpoint,
    oracle: Oracle,
    protocol: Protocol,
    data: Dataset,
    out: Path,
    reporter: Reporter,
) -> _Bought:
    info = oracle.describe()
    if info.num_classes != data.num_classes:
        raise AuditError(
            f"expected {data.num_classes} classes from {endpoint.name} as in {data.name}, "
            f"got {info.num_classes}"
        )
    folder = out / "bought" / endpoint.name
    bought_once = len(data.train_x) + len(data.test_x)
    kept = KeptOracle(oracle, folder=folder / "asked", budget=protocol.budget - bought_once)
    kept.settle()  # of a run that was killed, before anything else is asked
    total, done = len(data.train_x) + len(data.test_x), 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        reporter.step(done, total, f"buying from {endpoint.name}")

    transfer = buy(
        oracle, data.train_x, budget=protocol.budget, folder=folder / "transfer", progress=progress
    )
    evaluation = buy(
        oracle,
        data.test_x,
        budget=protocol.budget - transfer.queries,
        folder=folder / "evaluation",
        progress=progress,
    )
    kept.add(data.train_x, transfer.answers)
    answers = evaluation.answers
    return _Bought(
        endpoint=endpoint,
        info=info,
        transfer=transfer,
        evaluation=evaluation,
        kept=kept,
        teacher_accuracy=percent_equal(evaluation.answers.top1, data.test_y),
        utility=utility(answers.indices, answers.scores, answers.form, data.test_y),
    )


def _jobs(
    protocol: Protocol,
    data: Dataset,
    bought: list[_Bought],
    device: torch.device,
    networks: Mapping[str, nn.Module],
) -> tuple[list[_Job], list[dict[str, str]]]:
    """Baseline first: every uplift is counted from it. Attacks that cannot run are told apart."""
    jobs: list[_Job] = []
    skipped: list[dict[str, str]] = []
    images = to_device(data.train_x, device)
    labels = torch.from_numpy(data.train_y).to(device)

    def add(
        source: _Bought | None, partner: _Bought | None, attack: Attack, material: Material
    ) -> None:
        jobs.extend(
            _Job(source, partner, attack, material, student, seed)
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
        for attack in protocol.variants:
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


def _material(
    source: _Bought, images: torch.Tensor, labels: torch.Tensor, network: nn.Module | None
) -> Material:
    """What an attacker of this endpoint has before a run begins."""
    answers, device = source.transfer.answers, images.device
    has_scores = scores_refusal(answers.form) is None
    return Material(
        images,
        labels=labels,
        top1=torch.from_numpy(answers.top1).to(device),
        logits=dense_logits(answers, device) if has_scores else None,
        indices=torch.from_numpy(answers.indices).to(device),
        info=source.info,
        network=network.to(device).eval() if network is not None else None,
    )


def _run(
    jobs: list[_Job],
    folder: RunFolder,
    protocol: Protocol,
    data: Dataset,
    device: torch.device,
    reporter: Reporter,
) -> list[Row]:
    test_images = to_device(data.test_x, device)
    rows: list[Row] = []
    for number, job in enumerate(jobs, start=1):
        row = folder.get(*job.run.key)
        if row is None:
            row = _train_one(job, protocol, data, test_images, rows)
            folder.add(row)
        rows.append(row)
        reporter.step(number, len(jobs), f"students ({job.run.endpoint}, {job.attack.label})")
    return rows


def _train_one(
    job: _Job, protocol: Protocol, data: Dataset, test_images: torch.Tensor, earlier: list[Row]
) -> Row:
    """One student from scratch; the same seed starts every attack from the same weights."""
    torch.manual_seed(job.seed)
    student = student_spec(job.student).build(data.num_classes).to(test_images.device)
    source, material, session = job.bought, job.material, None
    if source is not None and Need.QUERIES in job.attack.needs:
        session = Session(source.kept, budget=job.attack.budget(len(data.train_x)))
        material = replace(material, session=session)
    result = job.attack.run(student, material, settings=protocol.training, seed=job.seed)
    guesses = predict(student, test_images).numpy()
    accuracy = percent_equal(guesses, data.test_y)
    baseline = accuracy if source is None else baseline_accuracy(earlier, job.student)
    if baseline is None:
        raise AuditError(
            f"expected a no-API baseline for {job.student}, got one whose loss was never finite: "
            "lower the learning rate"
        )
    return Row(
        endpoint=source.endpoint.name if source else NO_ENDPOINT,
        defence=source.endpoint.defence if source else job.attack.name,
        attack=job.attack.label,
        student=job.student,
        seed=job.seed,
        queries=job.queries_bought + (session.spent if session else 0),
        accuracy=accuracy,
        agreement=percent_equal(guesses, source.evaluation.answers.top1) if source else None,
        teacher_accuracy=source.teacher_accuracy if source else None,
        uplift=accuracy - baseline,
        finite=result.finite,
        seconds=round(result.seconds, 3),
    )
