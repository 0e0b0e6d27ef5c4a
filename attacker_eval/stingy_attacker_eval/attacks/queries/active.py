"""Active learning: buy answers for the images that the student knows least about."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, AttackContext, Capability, positive_faults
from stingy_attacker_eval.attacks.losses import kd_loss_fn
from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.training import TrainResult

_STRATEGIES = ("entropy", "k_center", "random")


@dataclass(frozen=True, kw_only=True)
class Active(Attack):
    """Active learning: the current student decides which images to buy next.

    The attacker buys `queries` answers for its own images in `rounds` equal parts. The first
    part is random. For each later part, the student trained so far scores the images that are
    left. After each purchase the student starts again from its initial weights and trains on all
    bought answers, with soft cross-entropy at tau 1.

    The attacker needs its own images and queries during the run. It needs no true labels.

    strategy: "entropy" takes the images with the highest entropy of the student's softmax.
        "k_center" takes the images whose softmax is farthest from all bought ones.
        "random" is the control.
    queries: answers to buy in all.
    rounds: purchases to make.

    Measured on the digits (stingy, N = 2, cnn_tiny, 5 epochs, 3 seeds, deviation over seeds):
    with 400 answers entropy reaches 96.2 +- 0.7 %, k_center 96.7 +- 0.5 and random 95.1 +- 1.4.
    soft_label reaches 95.7 +- 0.6 with all 1,297 answers.

    References:
        "ActiveThief" (Pal et al., AAAI 2020), section 4, its uncertainty and k-center strategies.
    """

    name: ClassVar[str] = "active"
    title: ClassVar[str] = "a few answers, for images that the student does not know"
    reference: ClassVar[str] = "Pal et al. 2020, ActiveThief, section 4"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.IMAGES, Capability.QUERIES})

    strategy: str = "entropy"
    queries: int = 400
    rounds: int = 4

    def faults(self) -> Iterator[str]:
        yield from positive_faults(queries=self.queries, rounds=self.rounds)
        if self.strategy not in _STRATEGIES:
            known = ", ".join(_STRATEGIES)
            yield f'expected a strategy out of {known}, got "{self.strategy}"'
        if self.rounds > self.queries // 2:
            yield (
                f"expected at most {self.queries // 2} rounds, of two queries or more, got "
                f"{self.rounds}"
            )

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
        """Pick `count` images that are not in `chosen`; return their row numbers."""
        free = torch.ones(len(images), dtype=torch.bool, device=images.device)
        free[chosen] = False
        if self.strategy == "random":
            return order[free[order]][:count]
        log_probs = functional.log_softmax(compute_logits(student, images), dim=1)
        if self.strategy == "entropy":
            entropy = -(log_probs.exp() * log_probs).sum(dim=1)
            return entropy.masked_fill(~free, -torch.inf).topk(count).indices
        return select_farthest(log_probs.exp(), chosen, count)


def select_farthest(points: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Select rows by greedy k-center: each is the farthest from all rows selected before it.

    points: `[n, d]`.
    chosen: row numbers that are selected already.
    count: rows to add.
    """
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
    return context.train(student, images, kd_loss_fn(targets), pure=True)
