"""The same answers read at temperature 1: what undoes the collapse."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stingy_attacker_eval.attacks.base import Attack, Batch, Capability
from stingy_attacker_eval.attacks.losses import kd_loss


@dataclass(frozen=True, kw_only=True)
class SoftLabel(Attack):
    """Soft cross-entropy on the answered probabilities, tau 1 and alpha 1; no true label.

    References:
        "Knockoff Nets" (Orekondy et al., CVPR 2019), section 4.2.
    """

    name: ClassVar[str] = "soft_label"
    title: ClassVar[str] = "the answered probabilities as a label"
    reference: ClassVar[str] = "Orekondy et al. 2019, Knockoff Nets, section 4.2"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS, Capability.SCORES})

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        return kd_loss(student_logits, batch.logits, None, tau=1.0, alpha=1.0)
