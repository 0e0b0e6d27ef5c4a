"""Two keys that see different tiers of one model, put together."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stingy_attacker_eval.attacks.base import Attack, Material, Means, Need
from stingy_attacker_eval.attacks.losses import fill_constant, kd_loss
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
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ANSWERS, Need.SCORES, Need.SECOND_TIER})

    partner: str

    def partner_name(self) -> str | None:
        return self.partner

    def objection(self, material: Material) -> str | None:
        second = material.partner
        if second is None or second.top1 is None or second.indices is None:
            return None
        if material.top1 is None or material.indices is None:
            return None
        same = float((material.top1 == second.top1).float().mean())
        if same < _SAME_MODEL:
            return (
                f"needs two tiers of one model, and {self.partner} has the same top-1 for "
                f"{100 * same:.0f} % of the images only"
            )
        if second.logits is None and second.indices.shape[1] <= material.indices.shape[1]:
            return f"needs a second tier that tells more, and {self.partner} tells less"
        return None

    def steal(self, student: nn.Module, means: Means) -> TrainResult:
        second = means.partner
        both = (
            united(means.logits, second.logits, means.top1)
            if second.has(Need.SCORES)
            else ranked_below(means.logits, second.indices)
        )
        return means.train(
            student,
            means.images,
            lambda student_logits, rows, _: kd_loss(
                student_logits, both[rows], None, tau=1.0, alpha=1.0
            ),
        )


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
