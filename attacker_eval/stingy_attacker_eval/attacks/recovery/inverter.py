"""A network that undoes a policy, trained on the policy's answers to known logits."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.context import AttackContext
from stingy_attacker_eval.attacks.losses import fill_constant, kd_loss
from stingy_attacker_eval.attacks.recovery.policy_simulation import PolicyOptions, simulate_policy

_COPIES = 8
_LARGEST_SCALE = 3.0
_BATCH = 256


class Inverter(nn.Module):
    """A network of two hidden layers from answers to logits.

    The hidden layers have 64 units for 10 classes, 512 for 100 and 1024 for 200, as published. The
    network adds a correction to the filled answer. It also reads which class was listed first:
    a policy may give several classes the largest score, and still lists the teacher's top-1 first.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        width = max(64, math.ceil(5.12 * num_classes))
        self.body = nn.Sequential(
            nn.Linear(3 * num_classes, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, num_classes),
        )

    def forward(self, answers: Tensor, top1: Tensor) -> Tensor:
        """Compute logits of answers `[n, classes]`, -inf where withheld.

        top1: the classes that were listed first, int64 `[n]`.
        """
        filled = fill_constant(functional.log_softmax(answers, dim=1), delta=1.0).clamp_min(-30.0)
        first = functional.one_hot(top1, answers.shape[1]).float()
        parts = [filled / 10, answers.isinf().float(), first]
        correction: Tensor = self.body(torch.cat(parts, dim=1))
        return filled + correction


def fit_inverter(
    logits: Tensor, context: AttackContext, options: PolicyOptions, *, steps: int
) -> Inverter:
    """Train an inverter of the endpoint's policy on known logits, with soft cross-entropy at tau 1.

    The policy answers copies of the logits, each row at a random scale between 1/3 and 3, because
    the endpoint's network may be more or less confident than the attacker's. The first copy keeps
    its scale. If the policy has noise, each copy has its own.

    logits: float32 `[n, classes]`, of networks of the attacker.
    steps: training steps, of up to 256 answers.
    """
    generator = context.generator()
    shape = _COPIES, len(logits), 1
    draws = torch.rand(shape, generator=generator, device=context.device)
    scales = _LARGEST_SCALE ** (2 * draws - 1)
    scales[0] = 1.0
    table = (scales * logits).flatten(0, 1)
    answers = torch.cat(
        [simulate_policy(part, context.info, options) for part in torch.split(table, 4096)]
    )
    top1 = table.argmax(dim=1)  # every policy lists it first
    inverter = Inverter(logits.shape[1]).to(context.device)
    optimizer = torch.optim.Adam(inverter.parameters(), lr=1e-3)
    batch = min(_BATCH, len(table))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(table), (batch,), generator=generator, device=context.device)
        loss = kd_loss(inverter(answers[rows], top1[rows]), table[rows], None, tau=1.0, alpha=1.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return inverter
