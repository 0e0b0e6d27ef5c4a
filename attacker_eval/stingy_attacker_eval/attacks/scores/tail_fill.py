"""Distillation with every withheld score filled in, so that a high temperature works."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from stingy_attacker_eval.attacks.base import (
    Attack,
    AttackContext,
    Capability,
    positive_faults,
    tau_alpha_faults,
)
from stingy_attacker_eval.attacks.losses import fill_constant, kd_loss_fn
from stingy_attacker_eval.attacks.scores.imputation import fill_class_mean
from stingy_attacker_eval.training import TrainResult

_FILLS = ("constant", "class_mean")


@dataclass(frozen=True, kw_only=True)
class TailFill(Attack):
    """Distillation on answers with an estimate for every withheld score.

    The attacker fills each withheld score and trains with the KD loss on the filled answers, with
    the bought top-1 as the label. It needs answers with scores for its own images. It needs no
    true labels.

    fill: "constant" puts a withheld class `delta` below the row's lowest score.
        "class_mean" takes the class's mean over the answers of the same top-1.
    delta: distance below the row's lowest score; with "class_mean", of a class never
        answered under this top-1.
    tau, alpha: temperature and weight of the KD term.

    References:
        "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs" (Anshumann et al.,
        2025), on smoothing and the missing mass of top-K targets.
    """

    name: ClassVar[str] = "tail_fill"
    title: ClassVar[str] = "distillation with the withheld classes filled in"
    reference: ClassVar[str] = "after Anshumann et al. 2025, Sparse Logit Sampling"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS, Capability.SCORES})

    fill: str = "constant"
    delta: float = 1.0
    tau: float = 4.0
    alpha: float = 0.9

    def faults(self) -> Iterator[str]:
        yield from tau_alpha_faults(self.tau, self.alpha)
        yield from positive_faults(delta=self.delta)
        if self.fill not in _FILLS:
            yield f'expected fill out of {", ".join(_FILLS)}, got "{self.fill}"'

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        filled = (
            fill_constant(context.logits, delta=self.delta)
            if self.fill == "constant"
            else fill_class_mean(context.logits, context.top1, delta=self.delta)
        )
        return context.train(
            student,
            context.images,
            kd_loss_fn(filled, context.top1, tau=self.tau, alpha=self.alpha),
            pure=True,
        )
