"""The floor of attackers who own true labels: the bought label beside the true one."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, Batch, Capability


@dataclass(frozen=True, kw_only=True)
class TwoLabels(Attack):
    """Cross-entropy on the endpoint's top-1 and on the true label, half and half.

    It is the KD loss at tau 1 and alpha 0.5 on an endpoint that sells labels alone, so that what
    an attack with true labels gains from a list can be compared with labels anywhere.

    References:
        "Distilling the Knowledge in a Neural Network" (Hinton et al., 2015), section 2, of an
        answer that is the top-1 alone.
    """

    name: ClassVar[str] = "two_labels"
    title: ClassVar[str] = "the bought top-1 beside the true label"
    reference: ClassVar[str] = "after Hinton et al. 2015, section 2"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS, Capability.LABELS})
    reads_top1_only: ClassVar[bool] = True

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        answer_loss = functional.cross_entropy(student_logits, batch.top1)
        return (answer_loss + functional.cross_entropy(student_logits, batch.labels)) / 2
