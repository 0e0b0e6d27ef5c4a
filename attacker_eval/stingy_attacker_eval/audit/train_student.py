"""The training of one student, as a function of one task that any process can run."""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stingy_attacker_eval.attacks import Attack, AttackerData
from stingy_attacker_eval.environment import source_commit
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import TrainSettings, predict


@dataclass(frozen=True, eq=False)
class Task:
    """A student to train.

    test_images: uint8 `[n, 3, H, W]`, on the device of the attacker's data.
    """

    attack: Attack
    attacker_data: AttackerData
    student: str
    num_classes: int
    seed: int
    settings: TrainSettings
    test_images: Tensor

    def to(self, device: torch.device) -> "Task":
        """Return the same task on another device, without its query session."""
        return replace(
            self,
            attacker_data=self.attacker_data.to(device),
            test_images=self.test_images.to(device),
        )


@dataclass(frozen=True, eq=False)
class StudentResult:
    """The outcome of one task.

    predictions: the student's top-1 for the test images, int64 `[n]`.
    finite: False if the loss was not finite.
    seconds: of the whole attack, all its training and queries included.
    queries: the images that the attack queried while it ran.
    commit, threads: of the process that trained the student.
    measures: other numbers that the attack reports, by name.
    """

    predictions: NDArray[np.int64]
    finite: bool
    seconds: float
    queries: int
    commit: str | None
    threads: int
    measures: dict[str, float]


def train_student(task: Task) -> StudentResult:
    """Train one student from scratch; the same seed starts every attack from the same weights.

    Raises AttackError, AnswersError, BudgetExhausted or TransferError if the attack does.
    """
    torch.manual_seed(task.seed)
    student = student_spec(task.student).build(task.num_classes).to(task.test_images.device)
    started = time.perf_counter()
    result = task.attack.run(student, task.attacker_data, settings=task.settings, seed=task.seed)
    seconds = time.perf_counter() - started
    session = task.attacker_data.session
    return StudentResult(
        predictions=predict(student, task.test_images).numpy(),
        finite=result.finite,
        seconds=round(seconds, 3),
        queries=session.spent if session is not None else 0,
        commit=source_commit(),
        threads=torch.get_num_threads(),
        measures=dict(result.measures),
    )
