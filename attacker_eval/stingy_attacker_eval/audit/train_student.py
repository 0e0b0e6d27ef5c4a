"""The training of one student, as a function of one task that any process can run."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stingy_attacker_eval.attacks import Attack, AttackerData
from stingy_attacker_eval.attacks.networks import last_linear
from stingy_attacker_eval.audit.measures import adversarial_examples, mean_kl
from stingy_attacker_eval.environment import source_commit
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import TrainSettings, predict


@dataclass(frozen=True, eq=False)
class Task:
    """A student to train.

    test_images: uint8 `[n, 3, H, W]`, on the device of the attacker's data.
    start: weights of a network that was trained before; None for new weights.
    teacher: its log-probabilities for the test images, `[n, classes]`; None if not known.
    targets: the endpoint's top-1 for the first test images, int64 `[m]`, on which adversarial
        examples are made; None for no examples.
    """

    attack: Attack
    attacker_data: AttackerData
    student: str
    num_classes: int
    seed: int
    settings: TrainSettings
    test_images: Tensor
    start: Mapping[str, Tensor] | None = None
    teacher: Tensor | None = None
    targets: Tensor | None = None

    def to(self, device: torch.device) -> "Task":
        """Return the same task on another device, without its query session."""
        return replace(
            self,
            attacker_data=self.attacker_data.to(device),
            test_images=self.test_images.to(device),
            teacher=None if self.teacher is None else self.teacher.to(device),
            targets=None if self.targets is None else self.targets.to(device),
        )


@dataclass(frozen=True, eq=False)
class StudentResult:
    """The outcome of one task.

    predictions: the student's top-1 for the test images, int64 `[n]`.
    finite: False if the loss was not finite.
    seconds: of the whole attack, all its training and queries included.
    queries: the images that the attack queried while it ran.
    commit, threads: of the process that trained the student.
    kl: mean KL divergence from the teacher, in nats; None if not known.
    adversarial: examples made on the student, uint8 `[m, H, W, 3]`; None for none.
    measures: other numbers that the attack reports, by name.
    """

    predictions: NDArray[np.int64]
    finite: bool
    seconds: float
    queries: int
    commit: str | None
    threads: int
    measures: dict[str, float]
    kl: float | None = None
    adversarial: NDArray[np.uint8] | None = None


def train_student(task: Task) -> StudentResult:
    """Train one student; the same seed starts every attack of an attacker from the same weights.

    Raises AttackError, AnswersError, BudgetExhausted or TransferError if the attack does.
    """
    torch.manual_seed(task.seed)
    student = student_spec(task.student).build(task.num_classes).to(task.test_images.device)
    if task.start is not None:
        load_fitting(student, task.start)
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
        kl=_kl(student, task) if result.finite else None,
        adversarial=_adversarial(student, task) if result.finite else None,
        measures=dict(result.measures),
    )


def load_fitting(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load the weights whose name and shape the network has, except those of its head.

    The head is the last linear layer. It and what does not fit keep their new weights.

    Raises AttackError if the network has no linear layer.
    """
    own, last = network.state_dict(), last_linear(network)
    heads = tuple(f"{name}." for name, module in network.named_modules() if module is last)
    fitting = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and own[name].shape == tensor.shape and not name.startswith(heads)
    }
    network.load_state_dict(own | fitting)


def _kl(student: nn.Module, task: Task) -> float | None:
    return None if task.teacher is None else mean_kl(student, task.test_images, task.teacher)


def _adversarial(student: nn.Module, task: Task) -> NDArray[np.uint8] | None:
    if task.targets is None:
        return None
    images = task.test_images[: len(task.targets)]
    return adversarial_examples(student, images, task.targets, seed=task.seed)
