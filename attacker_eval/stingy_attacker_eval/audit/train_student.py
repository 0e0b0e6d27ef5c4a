"""One student trained by itself: all it needs goes in, all that is known of it comes out."""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stingy_attacker_eval.attacks import Attack, Material
from stingy_attacker_eval.environment import source_commit
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import TrainSettings, predict


@dataclass(frozen=True, eq=False)
class Task:
    """A student to train. test_images: uint8 `[n, 3, H, W]`, on the device of the material."""

    attack: Attack
    material: Material
    student: str
    num_classes: int
    seed: int
    settings: TrainSettings
    test_images: Tensor

    def on(self, device: torch.device) -> "Task":
        """The same on another device, without the session: who asks stays where it is."""
        material, images = self.material.on(device), self.test_images.to(device)
        return replace(self, material=material, test_images=images)


@dataclass(frozen=True, eq=False)
class Learnt:
    """What came of it. guesses: its top-1 for the test images, int64 `[n]`; asked: images.

    seconds: of the whole attack, all that it trains and asks. commit, threads: of the process that
    trained it.
    """

    guesses: NDArray[np.int64]
    finite: bool
    seconds: float
    asked: int
    commit: str | None
    threads: int


def learn(task: Task) -> Learnt:
    """One student from scratch; the same seed starts every attack from the same weights.

    Raises AttackError, AnswersError, BudgetExhausted or TransferError, as the attack does.
    """
    torch.manual_seed(task.seed)
    student = student_spec(task.student).build(task.num_classes).to(task.test_images.device)
    started = time.perf_counter()
    result = task.attack.run(student, task.material, settings=task.settings, seed=task.seed)
    seconds = time.perf_counter() - started
    session = task.material.session
    return Learnt(
        guesses=predict(student, task.test_images).numpy(),
        finite=result.finite,
        seconds=round(seconds, 3),
        asked=session.spent if session is not None else 0,
        commit=source_commit(),
        threads=torch.get_num_threads(),
    )
