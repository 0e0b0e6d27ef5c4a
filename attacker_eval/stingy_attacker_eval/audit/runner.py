"""A whole audit: buy, learn, compare; what is finished is never done or paid for twice."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from stingy_attacker_eval.attacks import Attack
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.audit.executors import Executor, in_turn
from stingy_attacker_eval.audit.plan import Job, mark_duplicates, plan_jobs
from stingy_attacker_eval.audit.protocol import EndpointEntry, Protocol
from stingy_attacker_eval.audit.purchase import (
    buy_from,
    check_budget,
    check_networks,
    check_remaining,
)
from stingy_attacker_eval.audit.run_folder import RunFolder
from stingy_attacker_eval.audit.runs import Shard, choose
from stingy_attacker_eval.audit.train_student import StudentResult, Task
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.environment import default_device, describe_environment
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import lock_folder, write_json
from stingy_attacker_eval.oracle.oracle import Oracle
from stingy_attacker_eval.oracle.query_session import QuerySession
from stingy_attacker_eval.oracle.transfer_set import digest_images
from stingy_attacker_eval.progress import Reporter, report_progress
from stingy_attacker_eval.results import (
    NO_ENDPOINT,
    Row,
    baseline_accuracy,
    best_attacks,
    summarise,
)
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import percent_equal, to_device

SCHEMA = "stingy.audit/1"


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
    executor: Executor = in_turn,
) -> dict[str, object]:
    """Run the protocol against its endpoints' oracles (by endpoint name) and write OUT.

    networks: the endpoints' teachers, for white-box attacks; without one those are skipped.
    only, shard: which of the runs to do now, as `sharding.choose` has it; what other calls did in
    the same folder is in the report too. remaining: images left to the key, where it has a limit.
    executor: where students are trained, but those that ask as they learn.
    OUT/rows.jsonl grows by a row a run; a second call does only what is missing. Returns what
    OUT/report.json holds. Raises TransferError, AuditError or ProtocolError; Ctrl-C keeps all.
    """
    absent = sorted({endpoint.name for endpoint in protocol.endpoints} - set(oracles))
    if absent:
        raise AuditError(f"expected an oracle for every endpoint, got none for {', '.join(absent)}")
    data = protocol.load()
    device = default_device()
    check_budget(protocol, data)
    if remaining is not None and not (out / "config.json").exists():
        check_remaining(remaining, protocol, data, whole=not only)
    with lock_folder(out), report_progress(console or Console()) as reporter:
        folder = RunFolder(out, _config(protocol, data))
        purchases = [
            buy_from(endpoint, oracles[endpoint.name], protocol, data, folder, reporter)
            for endpoint in protocol.endpoints
        ]
        check_networks(purchases, networks or {}, data, device)
        jobs, skipped = plan_jobs(protocol, data, purchases, device, networks or {})
        chosen = set(choose([job.run for job in jobs], only=only, shard=shard))
        jobs = [job for job in jobs if job.run in chosen or folder.get(job.run) is not None]
        jobs = mark_duplicates(jobs)
        rows = _run(jobs, folder, protocol, data, device, reporter, executor)
        summaries = summarise(rows)
        best = {name: summary.attack for name, summary in best_attacks(summaries).items()}
        report: dict[str, object] = {
            "schema": SCHEMA,
            "config": _config(protocol, data),
            "environment": _environment(device, rows),
            "endpoints": [
                item.facts() | {"best": best.get(item.endpoint.name)} for item in purchases
            ],
            "rows": [asdict(row) for row in rows],
            "summary": [asdict(summary) for summary in summaries],
            "skipped": skipped,
        }
        write_json(out / "report.json", report)
    return report


def _config(protocol: Protocol, data: Dataset) -> dict[str, object]:
    """All that decides the numbers, but for the endpoints' answers (the transfer sets know)."""
    left_out = {"attacks", "endpoints"} | (set() if protocol.budgets else {"budgets"})
    return {
        **protocol.model_dump(mode="json", exclude=left_out),
        "attacks": _settings((NoApi(), *protocol.variants)),
        "endpoints": [_endpoint_config(endpoint) for endpoint in protocol.endpoints],
        "student_widths": {name: student_spec(name).width for name in protocol.students},
        "train_digest": digest_images(data.train_x),
        "test_digest": digest_images(data.test_x),
        "train_labels_digest": _digest(data.train_y),
        "test_labels_digest": _digest(data.test_y),
    }


def _digest(labels: NDArray[np.int64]) -> str:
    return hashlib.sha256(labels.tobytes()).hexdigest()


def _endpoint_config(endpoint: EndpointEntry) -> dict[str, object]:
    found = endpoint.model_dump(mode="json", exclude={"attacks"})
    # Left out where there are none, so that a folder of before there could be any goes on.
    return found | ({"attacks": _settings(endpoint.variants)} if endpoint.attacks else {})


def _environment(device: torch.device, rows: Sequence[Row]) -> dict[str, object]:
    """That of this call, and what else the rows were trained by."""
    found = describe_environment(device)
    for name, now in (("commit", found["commit"]), ("threads", torch.get_num_threads())):
        values = dict.fromkeys(getattr(row, name) for row in rows)
        if set(values) - {now}:
            texts = ("not noted" if value is None else str(value) for value in values)
            found[f"{name} of the rows"] = ", ".join(texts)
    return found


def _settings(attacks: Iterable[Attack]) -> dict[str, object]:
    return {attack.label: attack.settings() for attack in attacks}


def _run(
    jobs: list[Job],
    folder: RunFolder,
    protocol: Protocol,
    data: Dataset,
    device: torch.device,
    reporter: Reporter,
    executor: Executor,
) -> list[Row]:
    """Baselines come first, every uplift is counted from them; last, what others' students are."""
    test_images = to_device(data.test_x, device)
    todo = [job for job in jobs if folder.get(job.run) is None]
    done = len(jobs) - len(todo)

    def add(job: Job, row: Row) -> None:
        nonlocal done
        folder.add(row)
        done += 1
        reporter.step(done, len(jobs), f"students ({job.run.endpoint}, {job.attack.label})")

    def train(chosen: list[Job], execute: Executor) -> None:
        tasks = ((n, _task(job, protocol, data, test_images)) for n, job in enumerate(chosen))
        waiting: list[tuple[Job, StudentResult]] = []
        for number, result in execute(tasks):
            waiting.append((chosen[number], result))
            if chosen[number].purchase is None:
                add(chosen[number], _row(*waiting.pop(), data, []))
            # Whatever ends before the last baseline waits for it.
            baselines = [folder.get(job.run) for job in jobs if job.purchase is None]
            if all(baselines):
                for job, earlier in waiting:
                    add(job, _row(job, earlier, data, [row for row in baselines if row]))
                waiting.clear()

    planned = {job.run for job in jobs}
    duplicates = [
        (job, job.duplicate_of)
        for job in todo
        if job.duplicate_of is not None and job.duplicate_of in planned
    ]
    originals = [job for job in todo if job.duplicate_of not in planned]
    train([job for job in originals if not job.queries_endpoint], executor)
    train([job for job in originals if job.queries_endpoint], in_turn)
    for job, original in duplicates:
        add(job, _copied_row(job, folder.row(original)))
    return [folder.row(job.run) for job in jobs]


def _task(job: Job, protocol: Protocol, data: Dataset, test_images: torch.Tensor) -> Task:
    attacker_data = job.attacker_data
    if job.purchase is not None and job.queries_endpoint:
        session = QuerySession(job.purchase.oracle, budget=job.attack.budget(len(data.train_x)))
        attacker_data = replace(attacker_data, session=session)
    return Task(
        attack=job.attack,
        attacker_data=attacker_data,
        student=job.student,
        num_classes=data.num_classes,
        seed=job.seed,
        settings=protocol.training,
        test_images=test_images,
    )


def _row(job: Job, result: StudentResult, data: Dataset, earlier: list[Row]) -> Row:
    source = job.purchase
    accuracy = percent_equal(result.predictions, data.test_y)
    baseline = accuracy if source is None else baseline_accuracy(earlier, job.student, job.budget)
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
        queries=job.transfer_queries + result.queries,
        accuracy=accuracy,
        agreement=percent_equal(result.predictions, source.evaluation.answers.top1)
        if source
        else None,
        teacher_accuracy=source.teacher_accuracy if source else None,
        uplift=accuracy - baseline,
        finite=result.finite,
        seconds=result.seconds,
        budget=job.budget,
        commit=result.commit,
        threads=result.threads,
    )


def _copied_row(job: Job, row: Row) -> Row:
    """The same student's row for an endpoint that sold the same labels."""
    endpoint = job.run.endpoint, job.purchase.endpoint.defence if job.purchase else row.defence
    return replace(
        row, endpoint=endpoint[0], defence=endpoint[1], seconds=0.0, trained_on=row.endpoint
    )
