"""A whole audit: buy, learn, compare; what is finished is never done or paid for twice."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

from stingy_attacker_eval.attacks import Attack, Material
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.data import Dataset, load_dataset
from stingy_attacker_eval.environment import default_device, describe_environment
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import locked, write_json
from stingy_attacker_eval.oracle import Oracle, dense_logits, scores_refusal
from stingy_attacker_eval.progress import Reporter, reporting
from stingy_attacker_eval.protocol import NO_ENDPOINT, Endpoint, Protocol
from stingy_attacker_eval.results import Row, baseline_accuracy, best_attacks, summarise
from stingy_attacker_eval.run_folder import RunFolder
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.train import percent_equal, predict, to_device
from stingy_attacker_eval.transfer import TransferSet, buy, digest_images
from stingy_clients import ModelInfo

SCHEMA = "stingy.audit/1"


@dataclass(frozen=True)
class _Bought:
    """What one endpoint sold: answers to learn from, and answers to compare with."""

    endpoint: Endpoint
    info: ModelInfo
    transfer: TransferSet
    evaluation: TransferSet
    teacher_accuracy: float

    def facts(self) -> dict[str, object]:
        """The endpoint's entry in the report."""
        queries = self.transfer.queries, self.evaluation.queries
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
            "queries_spent": sum(queries),
            "queries_charged": self.transfer.charged + self.evaluation.charged,
            "teacher_accuracy": self.teacher_accuracy,
        }


@dataclass(frozen=True)
class _Job:
    """Everything one trained student needs to know."""

    bought: _Bought | None
    attack: Attack
    material: Material
    student: str
    seed: int


def run_audit(
    protocol: Protocol, *, oracles: Mapping[str, Oracle], out: Path, console: Console | None = None
) -> dict[str, object]:
    """Run the protocol against its endpoints' oracles (by endpoint name) and write OUT.

    OUT/rows.jsonl grows by a row a run; a second call does only what is missing. Returns what
    OUT/report.json holds. Raises TransferError, AuditError or ProtocolError; Ctrl-C keeps all.
    """
    absent = sorted({endpoint.name for endpoint in protocol.endpoints} - set(oracles))
    if absent:
        raise AuditError(f"expected an oracle for every endpoint, got none for {', '.join(absent)}")
    data = load_dataset(protocol.dataset)
    device = default_device()
    with locked(out), reporting(console or Console()) as reporter:
        folder = RunFolder(out, _config(protocol, data))
        bought = [
            _buy(endpoint, oracles[endpoint.name], protocol, data, out, reporter)
            for endpoint in protocol.endpoints
        ]
        jobs, skipped = _jobs(protocol, data, bought, device)
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
    return _Bought(
        endpoint=endpoint,
        info=info,
        transfer=transfer,
        evaluation=evaluation,
        teacher_accuracy=percent_equal(evaluation.answers.top1, data.test_y),
    )


def _jobs(
    protocol: Protocol, data: Dataset, bought: list[_Bought], device: torch.device
) -> tuple[list[_Job], list[dict[str, str]]]:
    """Baseline first: every uplift is counted from it. Attacks that cannot run are told apart."""
    jobs: list[_Job] = []
    skipped: list[dict[str, str]] = []
    images = to_device(data.train_x, device)
    labels = torch.from_numpy(data.train_y).to(device)

    def add(source: _Bought | None, attack: Attack, material: Material) -> None:
        jobs.extend(
            _Job(source, attack, material, student, seed)
            for student in protocol.students
            for seed in protocol.seeds
        )

    add(None, NoApi(), Material(images, labels=labels))
    for source in bought:
        answers = source.transfer.answers
        has_scores = scores_refusal(answers.form) is None
        material = Material(
            images,
            labels=labels,
            top1=torch.from_numpy(answers.top1).to(device),
            logits=dense_logits(answers, device) if has_scores else None,
        )
        for attack in protocol.variants:
            refusal = attack.refusal(answers.form)
            if refusal is None:
                add(source, attack, material)
            else:
                skipped.append(
                    {
                        "endpoint": source.endpoint.name,
                        "attack": attack.label,
                        "reason": refusal,
                    }
                )
    return jobs, skipped


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
        endpoint = job.bought.endpoint.name if job.bought else NO_ENDPOINT
        row = folder.get(endpoint, job.attack.label, job.student, job.seed)
        if row is None:
            row = _train_one(job, protocol, data, test_images, rows)
            folder.add(row)
        rows.append(row)
        reporter.step(number, len(jobs), f"students ({endpoint}, {job.attack.label})")
    return rows


def _train_one(
    job: _Job, protocol: Protocol, data: Dataset, test_images: torch.Tensor, earlier: list[Row]
) -> Row:
    """One student from scratch; the same seed starts every attack from the same weights."""
    torch.manual_seed(job.seed)
    student = student_spec(job.student).build(data.num_classes).to(test_images.device)
    result = job.attack.run(student, job.material, settings=protocol.training, seed=job.seed)
    guesses = predict(student, test_images).numpy()
    accuracy = percent_equal(guesses, data.test_y)
    source = job.bought
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
        queries=source.transfer.queries if source else 0,
        accuracy=accuracy,
        agreement=percent_equal(guesses, source.evaluation.answers.top1) if source else None,
        teacher_accuracy=source.teacher_accuracy if source else None,
        uplift=accuracy - baseline,
        finite=result.finite,
        seconds=round(result.seconds, 3),
    )
