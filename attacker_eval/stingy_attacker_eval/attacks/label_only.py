"""The label-only baseline: the gain that every policy leaves if it keeps the top-1."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, Batch, Capability


@dataclass(frozen=True, kw_only=True)
class LabelOnly(Attack):
    """Training on bought labels: cross-entropy on the endpoint's top-1.

    The attacker buys one answer for each of its own images and takes the top-1 as the label:
    L = CE(student, answered top-1). It needs answers for its own images. It needs no scores and
    no true labels.

    References:
        "Copycat CNN" (Correia-Silva et al., IJCNN 2018), section III.
    """

    name: ClassVar[str] = "label_only"
    title: ClassVar[str] = "the bought top-1 as a label"
    reference: ClassVar[str] = "Correia-Silva et al. 2018, Copycat CNN, section III"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS})

    @property
    def reads_top1_only(self) -> bool:
        return True

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(student_logits, batch.top1)
