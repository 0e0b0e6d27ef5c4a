"""Policy inversion: the attacker runs a known policy on its own networks and learns the inverse."""

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
    check_positive,
    check_tau_alpha,
)
from stingy_attacker_eval.attacks.losses import fill_constant, kd_loss, kd_loss_fn
from stingy_attacker_eval.attacks.networks import compute_logits, copy_with_new_weights
from stingy_attacker_eval.attacks.policy_simulation import (
    PolicyOptions,
    find_class_lists,
    simulate_policy,
    simulation_unsupported_reason,
)
from stingy_attacker_eval.training import TrainResult

_STEPS = 400
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Inversion(Attack):
    """Distillation on answers that a trained network has inverted to full logits.

    The attacker trains two shadow students on its true labels, each on half of its images. Each
    shadow predicts the other half, so its logits are those of unseen images. The attacker applies
    a simulation of the policy to these logits. It trains an inverter network from the result back
    to the logits. The student trains on the inverted answers with the KD loss, with the bought
    top-1 as the label.

    The attacker needs its own images, their true labels, and answers with scores for them. It
    needs a policy that `policy_simulation` supports.

    tau, alpha: temperature and weight of the KD term.
    beta, gamma, buckets, kept: the policy's options, which the endpoint's description lacks.

    Measured on the digits (stingy, N = 2, cnn_tiny, 5 epochs, 3 seeds, deviation over seeds):
    95.4 +- 0.7 % in 4.6 s a student, and soft_label 95.7 +- 0.5 % in 0.5 s. Against a policy that
    only withholds, the inverter is not worth its cost.

    References:
        "D-DAE" (Chen et al., IEEE S&P 2023), section IV; "ModelGuard" (Tang et al., USENIX
        Security 2024), its attack D-DAE+.
    """

    name: ClassVar[str] = "inversion"
    title: ClassVar[str] = "the known policy, inverted by a network"
    reference: ClassVar[str] = "Chen et al. 2023, D-DAE, section IV"
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ANSWERS, Capability.SCORES, Capability.LABELS}
    )

    tau: float = 4.0
    alpha: float = 0.9
    beta: float = 0.2
    gamma: float = 0.2
    buckets: int = 4
    kept: int = 2

    def __post_init__(self) -> None:
        check_tau_alpha(self.tau, self.alpha)
        check_positive(beta=self.beta, gamma=self.gamma, buckets=self.buckets, kept=self.kept)

    def unsupported_reason(self, data: AttackerData) -> str | None:
        if data.info is None:
            return None
        return simulation_unsupported_reason(data.info)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        logits = _compute_shadow_logits(student, context)
        options = PolicyOptions(
            beta=self.beta,
            gamma=self.gamma,
            buckets=self.buckets,
            kept=self.kept,
            lists=find_class_lists(context.indices, context.info.num_classes),
        )
        inverter = _fit_inverter(
            simulate_policy(logits, context.info, options), logits, context, self.tau
        )
        with torch.no_grad():
            inverted = inverter(context.logits)
        return context.train(
            student,
            context.images,
            kd_loss_fn(inverted, context.top1, tau=self.tau, alpha=self.alpha),
        )


def _compute_shadow_logits(student: nn.Module, context: AttackContext) -> Tensor:
    """Return logits `[n, classes]`, each from the shadow that was not trained on the image."""
    order = torch.randperm(
        len(context.images), generator=context.generator(), device=context.device
    )
    half = len(order) // 2
    logits = torch.zeros(len(order), context.info.num_classes, device=context.device)
    for train_rows, query_rows in ((order[:half], order[half:]), (order[half:], order[:half])):
        labels = context.labels[train_rows]
        shadow = copy_with_new_weights(student)
        context.train(
            shadow,
            context.images[train_rows],
            lambda student_logits, rows, _, labels=labels: functional.cross_entropy(  # type: ignore[misc]
                student_logits, labels[rows]
            ),
            epoch_size=len(train_rows),
        )
        logits[query_rows] = compute_logits(shadow, context.images[query_rows])
    return logits


class _Inverter(nn.Module):
    """A network from answers `[n, classes]`, -inf where withheld, to logits.

    The network adds a correction to the filled answer.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2 * num_classes, 128), nn.ReLU(), nn.Linear(128, num_classes)
        )

    def forward(self, answers: Tensor) -> Tensor:
        filled = fill_constant(functional.log_softmax(answers, dim=1), delta=1.0).clamp_min(-30.0)
        correction: Tensor = self.body(torch.cat([filled / 10, answers.isinf().float()], dim=1))
        return filled + correction


def _fit_inverter(answers: Tensor, logits: Tensor, context: AttackContext, tau: float) -> _Inverter:
    inverter = _Inverter(logits.shape[1]).to(context.device)
    optimizer = torch.optim.Adam(inverter.parameters(), lr=3e-3)
    generator = context.generator()
    for _ in range(_STEPS):
        rows = torch.randint(len(logits), (_BATCH,), generator=generator, device=context.device)
        loss = kd_loss(inverter(answers[rows]), logits[rows], None, tau=tau, alpha=1.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return inverter
