"""Choosing what to buy: the images the student knows least about."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, AttackContext, Capability, check_positive
from stingy_attacker_eval.attacks.losses import kd_loss_fn
from stingy_attacker_eval.attacks.networks import logits_of
from stingy_attacker_eval.training import TrainResult

_STRATEGIES = ("entropy", "k_center", "random")


@dataclass(frozen=True, kw_only=True)
class Active(Attack):
    """Buys `queries` answers for its own images in rounds, each choosing by the student so far.

    strategy: "entropy" takes what the student is least sure of, "k_center" what lies farthest
    from all that was bought, "random" is the control. After each round the student starts anew
    from its first weights.

    Measured on the digits (stingy, N = 2, cnn_tiny, 5 epochs, 3 seeds, deviation over seeds):
    with 400 answers entropy reaches 96.2 +- 0.7 %, k_center 96.7 +- 0.5 and the random control
    95.1 +- 1.4, where soft_label has 95.7 +- 0.6 of all 1,297.

    References:
        "ActiveThief" (Pal et al., AAAI 2020), section 4, its uncertainty and k-center strategies.
    """

    name: ClassVar[str] = "active"
    title: ClassVar[str] = "a few answers, chosen by what the student does not know"
    reference: ClassVar[str] = "Pal et al. 2020, ActiveThief, section 4"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.IMAGES, Capability.QUERIES})

    strategy: str = "entropy"
    queries: int = 400
    rounds: int = 4

    def __post_init__(self) -> None:
        check_positive(queries=self.queries, rounds=self.rounds)
        if self.strategy not in _STRATEGIES:
            known = ", ".join(_STRATEGIES)
            raise ValueError(f'expected a strategy out of {known}, got "{self.strategy}"')
        if self.rounds > self.queries:
            raise ValueError(f"expected at most {self.queries} rounds, got {self.rounds}")

    def budget(self, images: int) -> int:
        return min(self.queries, images)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        images, first = context.images, copy.deepcopy(student.state_dict())
        order = torch.randperm(len(images), generator=context.generator(), device=context.device)
        total = min(self.queries, len(images))
        chosen = order[: -(-total // self.rounds)]
        targets = context.targets(context.session.query(images[chosen]))
        result = _fit(student, context, images[chosen], targets)
        while len(chosen) < total and result.finite:
            more = min(-(-total // self.rounds), total - len(chosen))
            picked = self._pick(student, images, chosen, order, more)
            targets = torch.cat([targets, context.targets(context.session.query(images[picked]))])
            chosen = torch.cat([chosen, picked])
            student.load_state_dict(first)
            result = _fit(student, context, images[chosen], targets)
        return result

    def _pick(
        self, student: nn.Module, images: Tensor, chosen: Tensor, order: Tensor, count: int
    ) -> Tensor:
        """`count` new row numbers."""
        free = torch.ones(len(images), dtype=torch.bool, device=images.device)
        free[chosen] = False
        if self.strategy == "random":
            return order[free[order]][:count]
        log_probs = functional.log_softmax(logits_of(student, images), dim=1)
        if self.strategy == "entropy":
            entropy = -(log_probs.exp() * log_probs).sum(dim=1)
            return entropy.masked_fill(~free, -torch.inf).topk(count).indices
        return farthest(log_probs.exp(), chosen, count)


def farthest(points: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Greedy k-center: `count` rows of points `[n, d]`, each the farthest from all before it."""
    distance = torch.cdist(points, points[chosen]).amin(dim=1)
    distance[chosen] = -1.0
    picked = []
    for _ in range(count):
        row = distance.argmax()
        picked.append(row)
        distance = torch.minimum(distance, (points - points[row]).norm(dim=1))
        distance[row] = -1.0
    return torch.stack(picked)


def _fit(
    student: nn.Module, context: AttackContext, images: Tensor, targets: Tensor
) -> TrainResult:
    return context.train(student, images, kd_loss_fn(targets))
