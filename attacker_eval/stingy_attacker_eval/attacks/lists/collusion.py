"""Collusion: the answers of two keys for different tiers of one model, merged."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stingy_attacker_eval.attacks.base import Attack, AttackContext, AttackerData, Capability
from stingy_attacker_eval.attacks.losses import fill_constant, kd_loss_fn
from stingy_attacker_eval.training import TrainResult

_SAME_MODEL = 0.9


@dataclass(frozen=True, kw_only=True)
class Collusion(Attack):
    """Distillation on the merged answers of two tiers of one model.

    The attacker buys answers for the same images with two keys, for two tiers. It merges the two
    answers to each image and trains on the result with soft cross-entropy at tau 1. If the second
    tier gives no scores, each class that it adds goes one nat below the class before it.

    The attacker needs answers with scores for its own images, and a second key for another tier.

    partner: the protocol's name of the endpoint that the second key is for.

    References:
        "Bucks for Buckets" (Dubinski et al., NeurIPS 2023), section 4, on several accounts of
        one attacker.
    """

    name: ClassVar[str] = "collusion"
    title: ClassVar[str] = "the merged answers of two tiers of one model"
    reference: ClassVar[str] = "after Dubinski et al. 2023, Bucks for Buckets, section 4"
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ANSWERS, Capability.SCORES, Capability.SECOND_TIER}
    )

    partner: str

    def partner_name(self) -> str | None:
        return self.partner

    def unsupported_reason(self, data: AttackerData) -> str | None:
        second = data.partner
        if second is None or second.top1 is None or second.indices is None:
            return None
        if data.top1 is None or data.indices is None:
            return None
        same = float((data.top1 == second.top1).float().mean())
        if same < _SAME_MODEL:
            return (
                f"needs two tiers of one model, and {self.partner} has the same top-1 for "
                f"{100 * same:.0f} % of the images only"
            )
        if second.logits is None and second.indices.shape[1] <= data.indices.shape[1]:
            return (
                f"needs a second tier with scores or more classes, and {self.partner} has neither"
            )
        return None

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        second = context.partner
        both = (
            merge_scores(context.logits, second.logits, context.top1)
            if second.has(Capability.SCORES)
            else append_ranks(context.logits, second.indices)
        )
        return context.train(student, context.images, kd_loss_fn(both), pure=True)


def merge_scores(first: Tensor, second: Tensor, top1: Tensor) -> Tensor:
    """Merge two answers to each image after shifting the second to the first's score of top1.

    If both answers have a score for a class, the tier that answers more classes wins, because
    the scores of one answer belong together. If the second answer withholds top1, nothing relates
    the two answers, and the result is the first answer.

    first, second: scores `[n, classes]`, -inf where withheld.
    top1: the first answer's top-1, int64 `[n]`.
    """
    level = first.gather(1, top1[:, None]) - second.gather(1, top1[:, None])
    moved = torch.where(level.isfinite(), second + level, -torch.inf)
    if int(second.isfinite().sum()) > int(first.isfinite().sum()):
        first, moved = moved, first
    return torch.where(first.isfinite(), first, moved)


def append_ranks(scores: Tensor, order: Tensor) -> Tensor:
    """Add the classes that the scores lack below the lowest score, one nat apart.

    scores: `[n, classes]`, -inf where withheld.
    order: answered classes, int64 `[n, N]`, best first.
    """
    lacking = scores.gather(1, order).isinf()
    floor = fill_constant(scores, delta=0.0).amin(dim=1, keepdim=True)
    below = floor - lacking.cumsum(dim=1)
    return scores.scatter(1, order, torch.where(lacking, below, scores.gather(1, order)))
