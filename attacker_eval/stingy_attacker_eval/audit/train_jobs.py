"""The training of an audit's jobs. A row is written as soon as its uplift can be computed."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from stingy_attacker_eval.audit.executors import Executor, in_turn
from stingy_attacker_eval.audit.plan import Job
from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.run_folder import RunFolder
from stingy_attacker_eval.audit.train_student import StudentResult, Task
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.oracle.query_session import QuerySession
from stingy_attacker_eval.progress import Reporter
from stingy_attacker_eval.results import NO_ENDPOINT, Row, baseline_accuracy
from stingy_attacker_eval.training import percent_equal, to_device


def train_jobs(
    jobs: Sequence[Job],
    folder: RunFolder,
    protocol: Protocol,
    dataset: Dataset,
    device: torch.device,
    reporter: Reporter,
    executor: Executor,
) -> list[Row]:
    """Train the students that have no row yet, and return the rows of all jobs, in their order.

    Attacks that query the endpoint come second and in this process, whatever the executor: one
    process keeps the answers and their count. Duplicates come last; their rows are copies.
    """
    test_images = to_device(dataset.test_x, device)
    planned = {job.run for job in jobs}
    missing = [job for job in jobs if folder.get(job.run) is None]
    originals = [job for job in missing if job.duplicate_of not in planned]
    writer = _RowWriter(jobs, folder, dataset, reporter)
    for chosen, execute in (
        ([job for job in originals if not job.queries_endpoint], executor),
        ([job for job in originals if job.queries_endpoint], in_turn),
    ):
        tasks = (
            (number, _task(job, protocol, dataset, test_images))
            for number, job in enumerate(chosen)
        )
        for number, result in execute(tasks):
            writer.add(chosen[number], result)
    for job in missing:
        if job.duplicate_of in planned and job.duplicate_of is not None:
            writer.write(job, _duplicate_row(job, folder.row(job.duplicate_of)))
    return [folder.row(job.run) for job in jobs]


class _RowWriter:
    """A writer of an audit's rows.

    A student that ends before the last baseline waits for it, because its uplift is counted from
    the mean of all baselines.
    """

    def __init__(
        self, jobs: Sequence[Job], folder: RunFolder, dataset: Dataset, reporter: Reporter
    ) -> None:
        self._folder = folder
        self._dataset = dataset
        self._reporter = reporter
        self._baselines = [job.run for job in jobs if job.purchase is None]
        self._total = len(jobs)
        self._done = sum(folder.get(job.run) is not None for job in jobs)
        self._waiting: list[tuple[Job, StudentResult]] = []

    def add(self, job: Job, result: StudentResult) -> None:
        """Take a trained student, and write every row that can be computed now."""
        if job.purchase is None:
            self.write(job, _row(job, result, self._dataset, []))
        else:
            self._waiting.append((job, result))
        baselines = [row for run in self._baselines if (row := self._folder.get(run)) is not None]
        if len(baselines) == len(self._baselines):
            for ready, ready_result in self._waiting:
                self.write(ready, _row(ready, ready_result, self._dataset, baselines))
            self._waiting.clear()

    def write(self, job: Job, row: Row) -> None:
        """Write a row and report it."""
        self._folder.add(row)
        self._done += 1
        label = f"students ({job.run.endpoint}, {job.attack.label})"
        self._reporter.step(self._done, self._total, label)


def _task(job: Job, protocol: Protocol, dataset: Dataset, test_images: torch.Tensor) -> Task:
    attacker_data = job.attacker_data
    if job.purchase is not None and job.queries_endpoint:
        budget = job.attack.budget(len(dataset.train_x))
        session = QuerySession(job.purchase.oracle, budget=budget)
        attacker_data = replace(attacker_data, session=session)
    return Task(
        attack=job.attack,
        attacker_data=attacker_data,
        student=job.student,
        num_classes=dataset.num_classes,
        seed=job.seed,
        settings=protocol.training,
        test_images=test_images,
    )


def _row(job: Job, result: StudentResult, dataset: Dataset, baselines: Sequence[Row]) -> Row:
    purchase = job.purchase
    accuracy = percent_equal(result.predictions, dataset.test_y)
    baseline: float | None = accuracy
    agreement = None
    if purchase is not None:
        baseline = baseline_accuracy(baselines, job.student, job.budget)
        agreement = percent_equal(result.predictions, purchase.evaluation.top1)
    if baseline is None:
        raise AuditError(
            f"expected a no-API baseline for {job.student}, got one whose loss was never finite: "
            "lower the learning rate"
        )
    return Row(
        endpoint=purchase.endpoint.name if purchase else NO_ENDPOINT,
        defence=purchase.endpoint.defence if purchase else job.attack.name,
        attack=job.attack.label,
        student=job.student,
        seed=job.seed,
        queries=job.transfer_queries + result.queries,
        accuracy=accuracy,
        agreement=agreement,
        teacher_accuracy=purchase.teacher_accuracy if purchase else None,
        uplift=accuracy - baseline,
        finite=result.finite,
        seconds=result.seconds,
        budget=job.budget,
        commit=result.commit,
        threads=result.threads,
        measures=result.measures,
    )


def _duplicate_row(job: Job, row: Row) -> Row:
    """Return the identical student's row for an endpoint that sold equal labels."""
    return row.model_copy(
        update={
            "endpoint": job.run.endpoint,
            "defence": job.purchase.endpoint.defence if job.purchase else row.defence,
            "seconds": 0.0,
            "trained_on": row.endpoint,
        }
    )
