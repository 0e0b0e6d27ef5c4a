"""The skeptical student: only its shallow half is distilled from the teacher."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, AttackContext, Capability, check_tau_alpha
from stingy_attacker_eval.attacks.losses import kd_loss
from stingy_attacker_eval.attacks.networks import Tap, middle_convolution
from stingy_attacker_eval.training import TrainResult, normalise


@dataclass(frozen=True, kw_only=True)
class Skeptical(Attack):
    """Distillation into an exit at the middle convolution, and true labels for the head.

    The attacker adds an exit to the student after its middle convolution. The exit trains on the
    answers with the KD loss. The head trains on true labels and, by self-distillation, on the
    exit's logits at tau. After training the attacker removes the exit.

    The attacker needs answers with scores for its own images, and their true labels.

    tau, alpha: temperature and weight of the exit's KD term.
    weight: share of self-distillation in the head's loss; the rest is cross-entropy.

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

    def __post_init__(self) -> None:
        check_tau_alpha(self.tau, self.alpha)
        if not 0 <= self.weight <= 1:
            raise ValueError(f"expected weight in 0..1, got {self.weight}")

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        classes = context.logits.shape[1]
        tap = Tap(middle_convolution(student), of_input=False)
        with torch.no_grad():
            student.eval()(normalise(context.images[:1]))
        both = _StudentWithExit(student, tap, channels=tap.value.shape[1], classes=classes)
        both.to(context.device)

        def loss(outputs: Tensor, rows: Tensor, _: Tensor) -> Tensor:
            head, early = torch.split(outputs, classes, dim=1)
            labels = context.labels[rows]
            exit_loss = kd_loss(early, context.logits[rows], labels, tau=self.tau, alpha=self.alpha)
            self_loss = kd_loss(head, early.detach(), None, tau=self.tau, alpha=1.0)
            return (
                exit_loss
                + (1 - self.weight) * functional.cross_entropy(head, labels)
                + self.weight * self_loss
            )

        try:
            return context.train(both, context.images, loss)
        finally:
            tap.remove()


class _StudentWithExit(nn.Module):
    """The student and its exit; the output is both logits, `[batch, 2 * classes]`."""

    def __init__(self, student: nn.Module, tap: Tap, *, channels: int, classes: int) -> None:
        super().__init__()
        self.student = student
        self._tap = tap
        self.exit = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * channels, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        head = self.student(images)
        return torch.cat([head, self.exit(self._tap.value)], dim=1)
