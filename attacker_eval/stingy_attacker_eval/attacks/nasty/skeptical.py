"""The skeptical student: only its shallow half is distilled from the teacher."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import (
    Attack,
    AttackContext,
    Capability,
    least_faults,
    tau_alpha_faults,
)
from stingy_attacker_eval.attacks.losses import kd_loss
from stingy_attacker_eval.attacks.networks import Tap, middle_convolution
from stingy_attacker_eval.training import TrainResult, normalise


@dataclass(frozen=True, kw_only=True)
class Skeptical(Attack):
    """Distillation into an exit at the middle convolution, and true labels for the head.

    The attacker adds an exit to the student after its middle convolution. The exit trains on the
    answers with the KD loss, on true labels, and by self-distillation on the head's logits. The
    head trains on true labels alone (`skeptical_loss`). In the first `delay` epochs only the head
    trains. After training the attacker removes the exit.

    The attacker needs answers with scores for its own images, and their true labels.

    tau, alpha: temperature and weight of the exit's KD term. The published code takes 4 and 0.9.
    weight: share of self-distillation in the exit's second term; the rest is cross-entropy.
    delay: epochs before distillation begins. The published code delays by one epoch or more.

    The loss is that of the published code. Its students have three exits, with attention, and its
    settings name the one that the answers are distilled into; here there is one.

    Its controls are `paper_kd` at the same tau and alpha, and `no_api`.

    References:
        "Analyzing the Confidentiality of Undistillable Teachers in Knowledge Distillation"
        (Kundu et al., NeurIPS 2021), section 4.
    """

    name: ClassVar[str] = "skeptical"
    title: ClassVar[str] = "distillation into a shallow exit, labels for the head"
    reference: ClassVar[str] = "Kundu et al. 2021, Skeptical Student, section 4"
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ANSWERS, Capability.SCORES, Capability.LABELS}
    )

    tau: float = 4.0
    alpha: float = 0.9
    weight: float = 0.3
    delay: int = 1

    def faults(self) -> Iterator[str]:
        yield from tau_alpha_faults(self.tau, self.alpha)
        if not 0 <= self.weight <= 1:
            yield f"expected weight in 0..1, got {self.weight}"
        yield from least_faults(0, delay=self.delay)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        classes, steps = context.logits.shape[1], 0
        tap = Tap(middle_convolution(student), of_input=False)
        with torch.no_grad():
            student.eval()(normalise(context.images[:1]))
        both = _StudentWithExit(student, tap, channels=tap.value.shape[1], classes=classes)
        both.to(context.device)

        def loss(outputs: Tensor, rows: Tensor, _: Tensor) -> Tensor:
            nonlocal steps
            steps += 1
            head, early = torch.split(outputs, classes, dim=1)
            labels = context.labels[rows]
            if steps <= self.delay * context.epoch_steps:
                return functional.cross_entropy(head, labels)
            return skeptical_loss(
                head,
                early,
                context.logits[rows],
                labels,
                tau=self.tau,
                alpha=self.alpha,
                weight=self.weight,
            )

        try:
            return context.train(both, context.images, loss)
        finally:
            tap.remove()


def skeptical_loss(
    head: Tensor,
    early: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    tau: float,
    alpha: float,
    weight: float,
) -> Tensor:
    """Compute the loss of a skeptical student with one exit, as in the published code.

    alpha * tau^2 * KL(teacher || exit) at tau + (1 - alpha) * CE(exit)
    + weight * KL(head || exit) at tau + (1 - weight) * CE(exit) + CE(head)

    The self-distillation term has no factor tau^2, and its gradient reaches the head, too.

    head, early: logits of the student and of its exit, `[batch, classes]`.
    teacher: answers `[batch, classes]`, -inf where withheld.
    """
    distil = kd_loss(early, teacher, labels, tau=tau, alpha=alpha)
    to_head = functional.kl_div(
        functional.log_softmax(early / tau, dim=1),
        functional.log_softmax(head / tau, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    exit_labels = functional.cross_entropy(early, labels)
    head_labels = functional.cross_entropy(head, labels)
    return distil + weight * to_head + (1 - weight) * exit_labels + head_labels


class _StudentWithExit(nn.Module):
    """The student and its exit; the output is both logits, `[batch, 2 * classes]`.

    The exit is the published separable convolution, average pooling and a linear layer.
    """

    def __init__(self, student: nn.Module, tap: Tap, *, channels: int, classes: int) -> None:
        super().__init__()
        self.student = student
        self._tap = tap
        self.exit = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            *_separable_convolution(channels, channels, stride=2),
            *_separable_convolution(channels, 2 * channels, stride=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * channels, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        head = self.student(images)
        return torch.cat([head, self.exit(self._tap.value)], dim=1)


def _separable_convolution(inputs: int, outputs: int, *, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
