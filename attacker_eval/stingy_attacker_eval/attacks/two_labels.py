"""The label-only baseline of attackers with true labels: the bought and the true label."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, Batch, Capability


@dataclass(frozen=True, kw_only=True)
class TwoLabels(Attack):
    """Training on the bought label and on the true label, half and half.

    L = (CE(student, answered top-1) + CE(student, true label)) / 2. This is the KD loss at tau 1
    and alpha 0.5 for an endpoint that answers only the top-1. On any endpoint, the gain of an
    attack with true labels can be compared with this baseline.

    The attacker needs answers for its own images, and their true labels. It needs no scores.

    References:
        "Distilling the Knowledge in a Neural Network" (Hinton et al., 2015), section 2, for an
        answer that is only the top-1.
    """

    name: ClassVar[str] = "two_labels"
    title: ClassVar[str] = "the bought top-1, with the true label"
    reference: ClassVar[str] = "after Hinton et al. 2015, section 2"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS, Capability.LABELS})

    @property
    def reads_top1_only(self) -> bool:
        return True

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        answer_loss = functional.cross_entropy(student_logits, batch.top1)
        return (answer_loss + functional.cross_entropy(student_logits, batch.labels)) / 2
