"""A sequence of contrastive models: each model avoids the answers of the one before it."""

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
    positive_faults,
    tau_alpha_faults,
)
from stingy_attacker_eval.attacks.losses import fill_constant, kd_loss_fn
from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.training import TrainResult


@dataclass(frozen=True, kw_only=True)
class Scm(Attack):
    """Distillation from the last of a sequence of models that undo the nasty loss.

    A nasty teacher was trained to be right and far from a normal network. So a model that is right
    and far from the nasty teacher is close to a normal network again. The attacker trains `models`
    networks of the student's kind. The first keeps away from the answers, each later one from the
    network before it (`contrastive_loss`). The student trains with the KD loss on the mean of
    answers and last network, both as probabilities at tau, and on true labels.

    The attacker needs answers with scores for its own images, and their true labels.

    models: networks in the sequence.
    omega: weight of the divergence from the model before.
    tau, alpha: temperature of all divergences, and weight of the student's KD term.

    The code of the paper is not public. Formula and defaults are our reading of its idea. Withheld
    scores are filled below the lowest answered one, because a divergence needs all classes.

    Its control is the attack with omega near 0, which distils from a network of true labels.

    References:
        "Distilling the Undistillable: Learning from a Nasty Teacher" (Jandial et al., ECCV 2022),
        its attack SCM; "Undistillable" (Ma et al., ICLR 2021), equation 2, the loss that is undone.
    """

    name: ClassVar[str] = "scm"
    title: ClassVar[str] = "a sequence of models, each far from the one before"
    reference: ClassVar[str] = "after Jandial et al. 2022, SCM"
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ANSWERS, Capability.SCORES, Capability.LABELS}
    )

    models: int = 1
    omega: float = 0.01
    tau: float = 4.0
    alpha: float = 0.5

    def faults(self) -> Iterator[str]:
        yield from tau_alpha_faults(self.tau, self.alpha)
        yield from positive_faults(models=self.models, omega=self.omega)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        answers = fill_constant(context.logits, delta=1.0)
        former = answers
        for _ in range(self.models):
            model = context.another_network(student)
            result = self._fit(model, former, context)
            if not result.finite:
                return result
            former = compute_logits(model, context.images)
        shares = torch.stack([answers, former]).div(self.tau).softmax(dim=2).mean(dim=0)
        target = self.tau * shares.clamp_min(torch.finfo(shares.dtype).tiny).log()
        return context.train(
            student,
            context.images,
            kd_loss_fn(target, context.labels, tau=self.tau, alpha=self.alpha),
            pure=True,
        )

    def _fit(self, model: nn.Module, former: Tensor, context: AttackContext) -> TrainResult:
        return context.train(
            model,
            context.images,
            lambda logits, rows, _: contrastive_loss(
                logits, former[rows], context.labels[rows], omega=self.omega, tau=self.tau
            ),
            pure=True,
        )


def contrastive_loss(
    logits: Tensor, former: Tensor, labels: Tensor, *, omega: float, tau: float
) -> Tensor:
    """Compute CE(logits, label) - omega * tau^2 * KL(softmax(logits/tau) || softmax(former/tau)).

    logits, former: finite, `[batch, classes]`.
    labels: int64 `[batch]`.
    """
    new = functional.log_softmax(logits / tau, dim=1)
    old = functional.log_softmax(former / tau, dim=1)
    divergence = functional.kl_div(old, new, reduction="batchmean", log_target=True)
    return functional.cross_entropy(logits, labels) - omega * tau**2 * divergence
