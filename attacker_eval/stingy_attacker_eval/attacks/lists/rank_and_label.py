"""Rank distillation with true labels."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Batch, Capability
from stingy_attacker_eval.attacks.lists.rank_distillation import RankDistillation


@dataclass(frozen=True, kw_only=True)
class RankAndLabel(RankDistillation):
    """Training on the answered order and on the true label, half and half.

    L = (Plackett-Luce loss of `rank_distillation` + CE(student, true label)) / 2. The loss of the
    order is a sum over its places, so a longer list weighs more. The attack is to an order what
    `two_labels` is to a label.

    The attacker needs answers for its own images, and their true labels. It needs no scores.

    n: as in `rank_distillation`.

    References:
        "Listwise Approach to Learning to Rank: Theory and Algorithm" (Xia et al., ICML 2008),
        section 4.3 (ListMLE); "Distilling the Knowledge in a Neural Network" (Hinton et al.,
        2015), section 2, for the weights of the two targets.
    """

    name: ClassVar[str] = "rank_and_label"
    title: ClassVar[str] = "the order of the answered classes, with the true label"
    reference: ClassVar[str] = "Xia et al. 2008, section 4.3, with Hinton et al. 2015, section 2"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS, Capability.LABELS})

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        label_loss = functional.cross_entropy(student_logits, batch.labels)
        return (super().loss(student_logits, batch) + label_loss) / 2
