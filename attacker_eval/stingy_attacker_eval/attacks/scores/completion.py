"""Low-rank completion: the scores one answer withholds are estimated from the other answers."""

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
from stingy_attacker_eval.attacks.losses import kd_loss_fn
from stingy_attacker_eval.attacks.scores.imputation import fill_low_rank
from stingy_attacker_eval.training import TrainResult


@dataclass(frozen=True, kw_only=True)
class Completion(Attack):
    """Distillation on a low-rank completion of all answers.

    The attacker fills each withheld score from a low-rank fit to all answers. The last layer of
    a network maps d features to K classes, so its logits have rank d + 1 at most. The student
    trains with the KD loss on the filled scores and the bought top-1 as the label.

    The attacker needs answers with scores for its own images. It needs no true labels.

    rank: directions that the fit keeps; at most the number of classes - 1.
    iterations: steps of the fit.
    delta: distance below the row's lowest score, for a class never answered under a top-1.
    tau, alpha: temperature and weight of the KD term.

    References:
        "Logits of API-Protected LLMs Leak Proprietary Information" (Finlayson et al., 2024),
        section 3, on the low-rank image of the last layer.
    """

    name: ClassVar[str] = "completion"
    title: ClassVar[str] = "distillation on answers completed from each other"
    reference: ClassVar[str] = "after Finlayson et al. 2024, section 3"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS, Capability.SCORES})

    rank: int = 5
    iterations: int = 50
    delta: float = 1.0
    tau: float = 4.0
    alpha: float = 0.9

    def faults(self) -> Iterator[str]:
        yield from tau_alpha_faults(self.tau, self.alpha)
        yield from positive_faults(rank=self.rank, iterations=self.iterations, delta=self.delta)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        filled = fill_low_rank(
            context.logits,
            context.top1,
            rank=min(self.rank, context.logits.shape[1] - 1),
            iterations=self.iterations,
            delta=self.delta,
        )
        return context.train(
            student,
            context.images,
            kd_loss_fn(filled, context.top1, tau=self.tau, alpha=self.alpha),
            pure=True,
        )
