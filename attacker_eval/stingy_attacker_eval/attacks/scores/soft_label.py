"""Distillation at temperature 1, which undoes the collapse of the paper's students."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stingy_attacker_eval.attacks.base import Attack, Batch, Capability
from stingy_attacker_eval.attacks.losses import kd_loss


@dataclass(frozen=True, kw_only=True)
class SoftLabel(Attack):
    """Training on answered probabilities: the KD loss at tau 1 and alpha 1.

    The attacker buys one answer for each of its own images and trains with soft cross-entropy on
    the answered probabilities: L = KL(answer || student). It needs answers with scores for its
    own images. It needs no true labels.

    References:
        "Knockoff Nets" (Orekondy et al., CVPR 2019), section 4.2.
    """

    name: ClassVar[str] = "soft_label"
    title: ClassVar[str] = "the answered probabilities as a label"
    reference: ClassVar[str] = "Orekondy et al. 2019, Knockoff Nets, section 4.2"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS, Capability.SCORES})

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        return kd_loss(student_logits, batch.logits, None, tau=1.0, alpha=1.0)
