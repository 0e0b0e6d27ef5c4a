"""The paper's attacker: distillation at a high temperature with true labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stingy_attacker_eval.attacks.base import Attack, Batch, Capability, tau_alpha_faults
from stingy_attacker_eval.attacks.losses import kd_loss


@dataclass(frozen=True, kw_only=True)
class PaperKd(Attack):
    """Distillation with the paper's settings, tau 20 and alpha 0.9, at which students collapse.

    The attacker buys one answer for each of its own images and trains with
    L_KD = alpha * tau^2 * KL(answer || student) at tau + (1 - alpha) * CE(student, true label).
    It needs answers with scores for its own images, and their true labels.

    The published loop has the teacher at hand and queries every batch after its augmentation. Here
    a shifted image has the answer to the plain one. `consistent` with `attack = "paper_kd"` and a
    view for every epoch is the published loop, at as many times the queries.

    tau, alpha: temperature and weight of the KD term.

    References:
        "Sparse Logits Suffice to Fail Knowledge Distillation" (Ma et al., 2022), the formula
        of L_KD and the settings of Table 1.
    """

    name: ClassVar[str] = "paper_kd"
    title: ClassVar[str] = "distillation as in the paper"
    reference: ClassVar[str] = "Ma et al. 2022, L_KD with the settings of Table 1"
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ANSWERS, Capability.SCORES, Capability.LABELS}
    )

    tau: float = 20.0
    alpha: float = 0.9

    def faults(self) -> Iterator[str]:
        yield from tau_alpha_faults(self.tau, self.alpha)

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        return kd_loss(student_logits, batch.logits, batch.labels, tau=self.tau, alpha=self.alpha)
