"""The floor under every policy that keeps the top-1: learn from the bought label alone."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, Batch, Capability


@dataclass(frozen=True, kw_only=True)
class LabelOnly(Attack):
    """Cross-entropy on the endpoint's top-1; no true label is used.

    References:
        "Copycat CNN" (Correia-Silva et al., IJCNN 2018), section III.
    """

    name: ClassVar[str] = "label_only"
    title: ClassVar[str] = "the bought top-1 as a label"
    reference: ClassVar[str] = "Correia-Silva et al. 2018, Copycat CNN, section III"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS})
    reads_top1_only: ClassVar[bool] = True

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(student_logits, batch.top1)
