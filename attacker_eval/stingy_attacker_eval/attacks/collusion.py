"""Two keys that see different tiers of one model, put together."""

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
    """The union of what two tiers answer to the same images, as soft labels at tau 1.

    partner: the name of the protocol's endpoint that the second key sees. Where it tells ranks
    alone, each class it adds stands one nat below the one before.

    References:
        "Bucks for Buckets" (Dubinski et al., NeurIPS 2023), section 4, on several accounts of
        one attacker.
    """

    name: ClassVar[str] = "collusion"
    title: ClassVar[str] = "the answers of two tiers of one model together"
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
            return f"needs a second tier that tells more, and {self.partner} tells less"
        return None

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        second = context.partner
        both = (
            united(context.logits, second.logits, context.top1)
            if second.has(Capability.SCORES)
            else ranked_below(context.logits, second.indices)
        )
        return context.train(student, context.images, kd_loss_fn(both))


def united(first: Tensor, second: Tensor, top1: Tensor) -> Tensor:
    """Two answers `[n, classes]`, -inf where withheld, moved to one level at top1 `[n]`.

    Where both tell, the one with the longer list is believed: its scores hang together. Where the
    second withholds top1 nothing ties the two together, and the first is taken alone.
    """
    level = first.gather(1, top1[:, None]) - second.gather(1, top1[:, None])
    moved = torch.where(level.isfinite(), second + level, -torch.inf)
    if int(second.isfinite().sum()) > int(first.isfinite().sum()):
        first, moved = moved, first
    return torch.where(first.isfinite(), first, moved)


def ranked_below(scores: Tensor, order: Tensor) -> Tensor:
    """Scores `[n, classes]` with the classes of order `[n, N]` that they lack put below them."""
    lacking = scores.gather(1, order).isinf()
    floor = fill_constant(scores, delta=0.0).amin(dim=1, keepdim=True)
    below = floor - lacking.cumsum(dim=1)
    return scores.scatter(1, order, torch.where(lacking, below, scores.gather(1, order)))
