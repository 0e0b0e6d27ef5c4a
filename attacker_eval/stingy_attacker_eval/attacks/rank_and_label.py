"""The order of the answered classes beside the true label, for attackers who own true labels."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Batch, Capability
from stingy_attacker_eval.attacks.rank_distillation import RankDistillation


@dataclass(frozen=True, kw_only=True)
class RankAndLabel(RankDistillation):
    """Half the loss of `rank_distillation`, and half the cross-entropy on the true label.

    To an order what `two_labels` is to a label: the order sums over its places, so of a long list
    it weighs the more.

    References:
        "Listwise Approach to Learning to Rank: Theory and Algorithm" (Xia et al., ICML 2008),
        section 4.3 (ListMLE); half and half as "Distilling the Knowledge in a Neural Network"
        (Hinton et al., 2015), section 2, has its two targets.
    """

    name: ClassVar[str] = "rank_and_label"
    title: ClassVar[str] = "the order of the answered classes beside the true label"
    reference: ClassVar[str] = "Xia et al. 2008, section 4.3, with Hinton et al. 2015, section 2"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS, Capability.LABELS})

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        own = functional.cross_entropy(student_logits, batch.labels)
        return (super().loss(student_logits, batch) + own) / 2
