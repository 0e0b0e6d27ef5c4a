"""Policy inversion: the attacker runs a known policy on its own networks and learns the inverse."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import (
    Attack,
    AttackContext,
    AttackerData,
    Capability,
    positive_faults,
    tau_alpha_faults,
)
from stingy_attacker_eval.attacks.losses import kd_loss_fn
from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.attacks.recovery.inverter import fit_inverter
from stingy_attacker_eval.attacks.recovery.policy_simulation import (
    PolicyOptions,
    find_class_lists,
    rank_scores,
    simulation_unsupported_reason,
)
from stingy_attacker_eval.training import TrainResult


@dataclass(frozen=True, kw_only=True)
class Inversion(Attack):
    """Distillation on answers that a trained network has inverted to full logits.

    The attacker trains two shadow students, each on half of its images. Each shadow predicts the
    other half, so its logits are those of unseen images. The attacker applies a simulation of the
    policy to these logits. It trains an inverter network from the result back to the logits
    (`inverter`). The student trains on the inverted answers with the KD loss and a label.

    The label, of the shadows and of the student, is the true one. Without `true_labels` it is the
    bought top-1. The attacker needs answers for its own images, and a policy that
    `policy_simulation` supports. Answers without scores are read as ranks.

    tau, alpha: temperature and weight of the KD term.
    true_labels: use the true labels.
    steps: training steps of the inverter, of 256 answers. 8,000 are 200 passes over 10,000 answers.
    beta, gamma, buckets, kept, eps, sigma: the policy's options, which the endpoint's description
        lacks.

    Its controls are `sweep` at the same tau and alpha, which trains on the answers as they are,
    and `two_labels` or `label_only`.

    References:
        "D-DAE" (Chen et al., IEEE S&P 2023), section IV; "ModelGuard" (Tang et al., USENIX
        Security 2024), its attack D-DAE+ and the size of its inverter.
    """

    name: ClassVar[str] = "inversion"
    title: ClassVar[str] = "the known policy, inverted by a network"
    reference: ClassVar[str] = "Chen et al. 2023, D-DAE, section IV"
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ANSWERS, Capability.SCORES, Capability.LABELS}
    )

    tau: float = 1.0
    alpha: float = 0.5
    true_labels: bool = True
    steps: int = 8000
    beta: float = 0.2
    gamma: float = 0.2
    buckets: int = 4
    kept: int = 2
    eps: float = 1.0
    sigma: float = 1.0

    def faults(self) -> Iterator[str]:
        yield from tau_alpha_faults(self.tau, self.alpha)
        yield from positive_faults(
            steps=self.steps,
            beta=self.beta,
            gamma=self.gamma,
            buckets=self.buckets,
            kept=self.kept,
            eps=self.eps,
            sigma=self.sigma,
        )

    @property
    def needs(self) -> frozenset[Capability]:
        labels = {Capability.LABELS} if self.true_labels else set()
        return frozenset({Capability.ANSWERS} | labels)

    def unsupported_reason(self, data: AttackerData) -> str | None:
        if data.info is None:
            return None
        return simulation_unsupported_reason(data.info)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        labels = context.labels if self.true_labels else context.top1
        inverted = self.invert_answers(compute_shadow_logits(student, context, labels), context)
        return context.train(
            student,
            context.images,
            kd_loss_fn(inverted, labels, tau=self.tau, alpha=self.alpha),
            pure=True,
        )

    def invert_answers(self, logits: Tensor, context: AttackContext) -> Tensor:
        """Return the logits that an inverter finds for the endpoint's answers, `[n, classes]`.

        logits: those of the shadows, on which the inverter is trained.
        """
        options = PolicyOptions(
            beta=self.beta,
            gamma=self.gamma,
            buckets=self.buckets,
            kept=self.kept,
            eps=self.eps,
            sigma=self.sigma,
            lists=find_class_lists(context.indices, context.info.num_classes),
        )
        answers = (
            context.logits
            if context.has(Capability.SCORES)
            else rank_scores(context.indices, context.info.num_classes)
        )
        inverter = fit_inverter(logits, context, options, steps=self.steps)
        with torch.no_grad():
            inverted: Tensor = inverter(answers, context.top1)
        return inverted


def compute_shadow_logits(student: nn.Module, context: AttackContext, labels: Tensor) -> Tensor:
    """Compute logits `[n, classes]`, each by the shadow that was not trained on the image.

    labels: int64 `[n]`, on which the shadows are trained.
    """
    order = torch.randperm(
        len(context.images), generator=context.generator(), device=context.device
    )
    half = len(order) // 2
    logits = torch.zeros(len(order), context.info.num_classes, device=context.device)
    for train_rows, query_rows in ((order[:half], order[half:]), (order[half:], order[:half])):
        shadow_labels = labels[train_rows]
        shadow = context.another_network(student)
        context.train(
            shadow,
            context.images[train_rows],
            lambda student_logits, rows, _, labels=shadow_labels: functional.cross_entropy(  # type: ignore[misc]
                student_logits, labels[rows]
            ),
            pure=True,
            epoch_size=len(train_rows),
        )
        logits[query_rows] = compute_logits(shadow, context.images[query_rows])
    return logits
