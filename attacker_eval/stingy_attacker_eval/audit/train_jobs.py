"""The training of an audit's jobs. A row is written as soon as its uplift can be computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stingy_attacker_eval.audit.executors import Executor, in_turn
from stingy_attacker_eval.audit.measures import class_agreement
from stingy_attacker_eval.audit.plan import Job
from stingy_attacker_eval.audit.pretraining import Start
from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.purchase import PurchasedData
from stingy_attacker_eval.audit.run_folder import RunFolder
from stingy_attacker_eval.audit.train_student import StudentResult, Task
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.oracle.query_session import QuerySession
from stingy_attacker_eval.oracle.transfer_set import buy_answers
from stingy_attacker_eval.progress import Reporter
from stingy_attacker_eval.results import Row, baseline_accuracy
from stingy_attacker_eval.training import percent_equal, to_device


@dataclass(frozen=True)
class TrainingPlace:
    """Everything that the training of jobs needs beside the jobs.

    purchases: of all endpoints. The baseline's adversarial examples are sent to the first.
    teachers: log-probabilities for the test images by endpoint, `[n, classes]`, where known.
    starts: weights that students start from, by data set and student.
    """

    protocol: Protocol
    dataset: Dataset
    purchases: Sequence[PurchasedData]
    teachers: Mapping[str, Tensor | None]
    starts: Mapping[tuple[str, str], Start]
    device: torch.device


def train_jobs(
    jobs: Sequence[Job],
    folder: RunFolder,
    place: TrainingPlace,
    reporter: Reporter,
    executor: Executor,
) -> list[Row]:
    """Train the students that have no row yet, and return the rows of all jobs, in their order.

    Attacks that query the endpoint come second and in this process, whatever the executor: one
    process keeps the answers and their count. A duplicate's row is a copy of its original's.
    """
    test_images = to_device(place.dataset.test_x, place.device)
    planned = {job.run for job in jobs}
    missing = [job for job in jobs if folder.get(job.run) is None]
    originals = [job for job in missing if job.duplicate_of not in planned]
    writer = _RowWriter(jobs, folder, place, reporter)
    writer.write_copies()
    for chosen, execute in (
        ([job for job in originals if not job.queries_endpoint], executor),
        ([job for job in originals if job.queries_endpoint], in_turn),
    ):
        tasks = ((number, _task(job, place, test_images)) for number, job in enumerate(chosen))
        for number, result in execute(tasks):
            writer.add(chosen[number], result)
    return [folder.row(job.run) for job in jobs]


class _RowWriter:
    """A writer of an audit's rows.

    A student that ends before the last baseline waits for it, because its uplift is counted from
    the mean of all baselines.
    """

    def __init__(
        self, jobs: Sequence[Job], folder: RunFolder, place: TrainingPlace, reporter: Reporter
    ) -> None:
        self._folder = folder
        self._place = place
        self._reporter = reporter
        self._baselines = [job.run for job in jobs if job.purchase is None]
        planned = {job.run for job in jobs}
        self._copies = [
            job for job in jobs if job.duplicate_of in planned and folder.get(job.run) is None
        ]
        self._total = len(jobs)
        self._done = sum(folder.get(job.run) is not None for job in jobs)
        self._waiting: list[tuple[Job, StudentResult]] = []

    def add(self, job: Job, result: StudentResult) -> None:
        """Take a trained student, and write every row that can be computed now."""
        if job.purchase is None:
            self._write(job, self._row(job, result))
            self.write_copies()
        else:
            self._waiting.append((job, result))
        if self._has_baselines():
            while self._waiting:
                ready, ready_result = self._waiting.pop(0)
                self._write(ready, self._row(ready, ready_result))
            self.write_copies()

    def write_copies(self) -> None:
        """Write the row of each duplicate whose original and baselines have theirs."""
        for job in list(self._copies):
            assert job.duplicate_of is not None  # noqa: S101 - or it is no copy
            original = self._folder.get(job.duplicate_of)
            if original is not None and (job.purchase is None or self._has_baselines()):
                self._copies.remove(job)
                self._write(job, self._copied_row(job, original))

    def _has_baselines(self) -> bool:
        return all(self._folder.get(run) is not None for run in self._baselines)

    def _write(self, job: Job, row: Row) -> None:
        self._folder.add(row)
        self._done += 1
        label = f"students ({job.run.endpoint}, {job.attack.label})"
        self._reporter.step(self._done, self._total, label)

    def _row(self, job: Job, result: StudentResult) -> Row:
        purchase, data = job.purchase, self._place.dataset
        accuracy = percent_equal(result.predictions, data.test_y)
        agreement, by_class = None, None
        if purchase is not None:
            teacher = purchase.evaluation.top1
            agreement = percent_equal(result.predictions, teacher)
            by_class = class_agreement(result.predictions, teacher, data.test_y, data.num_classes)
        return Row(
            endpoint=job.run.endpoint,
            defence=purchase.endpoint.defence if purchase else job.attack.name,
            attack=job.attack.label,
            student=job.student,
            seed=job.seed,
            queries=job.transfer_queries + result.queries,
            accuracy=accuracy,
            agreement=agreement,
            teacher_accuracy=purchase.teacher_accuracy if purchase else None,
            uplift=accuracy - self._baseline(job, accuracy),
            finite=result.finite,
            seconds=result.seconds,
            budget=job.budget,
            commit=result.commit,
            threads=result.threads,
            measures=result.measures,
            attacker=job.attacker.name,
            class_agreement=by_class,
            kl=result.kl,
            transfer=self._transfer(job, result),
            predictions=self._folder.save_predictions(result.predictions),
        )

    def _copied_row(self, job: Job, row: Row) -> Row:
        """Return the identical student's row for another endpoint or attacker."""
        return row.model_copy(
            update={
                "endpoint": job.run.endpoint,
                "defence": job.purchase.endpoint.defence if job.purchase else row.defence,
                # Two attackers may have bought different parts of equal labels.
                "queries": row.queries if job.queries_endpoint else job.transfer_queries,
                "seconds": 0.0,
                "uplift": row.accuracy - self._baseline(job, row.accuracy),
                "budget": job.budget,
                "attacker": job.attacker.name,
                "trained_on": row.endpoint,
            }
        )

    def _baseline(self, job: Job, own: float) -> float:
        """Return the accuracy that the job's uplift is counted from.

        own: the job's accuracy, from which a baseline is counted.

        Raises AuditError if no baseline has a finite loss.
        """
        if job.purchase is None:
            return own
        found = baseline_accuracy(
            [row for run in self._baselines if (row := self._folder.get(run)) is not None],
            job.student,
            job.budget,
            attacker=job.attacker.name,
            seeds=self._place.protocol.group_of(job.seed),
        )
        if found is None:
            raise AuditError(
                f"expected a no-API baseline for {job.student}, got one whose loss was never "
                "finite: lower the learning rate"
            )
        return found

    def _transfer(self, job: Job, result: StudentResult) -> float | None:
        """Return the percentage of adversarial examples that change the endpoint's top-1."""
        if result.adversarial is None:
            return None
        purchase = job.purchase or self._place.purchases[0]
        answers = buy_answers(purchase.oracle, result.adversarial)
        return 100.0 - percent_equal(answers.top1, purchase.evaluation.top1[: len(answers)])


def _task(job: Job, place: TrainingPlace, test_images: Tensor) -> Task:
    attacker_data = job.attacker_data
    if job.purchase is not None and job.queries_endpoint:
        budget = job.attack.budget(len(attacker_data.images))
        session = QuerySession(job.purchase.oracle, budget=budget)
        attacker_data = replace(attacker_data, session=session)
    start = None
    if job.attacker.pretrained is not None:
        start = place.starts[job.attacker.pretrained, job.student]
        attacker_data = replace(attacker_data, is_pretrained=True)
    return Task(
        attack=job.attack,
        attacker_data=attacker_data,
        student=job.student,
        num_classes=place.dataset.num_classes,
        seed=job.seed,
        settings=place.protocol.training,
        test_images=test_images,
        start=start,
        teacher=None if job.purchase is None else place.teachers.get(job.run.endpoint),
        targets=_targets(job, place),
    )


def _targets(job: Job, place: TrainingPlace) -> Tensor | None:
    """Return the top-1 that adversarial examples must change; None for no examples."""
    count = place.protocol.transfer_images
    if not count:
        return None
    purchase = job.purchase or place.purchases[0]
    return torch.from_numpy(purchase.evaluation.top1[:count]).to(place.device)
