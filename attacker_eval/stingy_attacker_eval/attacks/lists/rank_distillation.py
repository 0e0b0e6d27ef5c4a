"""Rank distillation: training on the order of the answered classes, for answers without scores."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stingy_attacker_eval.attacks.base import Attack, AttackerData, Batch, Capability, least_faults
from stingy_attacker_eval.attacks.losses import plackett_luce


@dataclass(frozen=True, kw_only=True)
class RankDistillation(Attack):
    """Training on the order of the answered classes, by its likelihood under Plackett-Luce.

    The attacker buys one answer for each of its own images and maximises the likelihood that the
    student's logits give to the answered order (`losses.plackett_luce`). Classes with equal
    scores count as tied, because rounding to the grid lists them by index.

    The attacker needs answers for its own images, with two classes or more. It needs no true
    labels. Scores only serve to find ties.

    n: answered classes to read, best first; None for all. The order of the last classes is noise,
        and each place weighs as much as the first. On 100 classes of Tiny-ImageNet, all places
        made a student 10 points worse, and 10 places made it 2 points better.

    Measured on the digits (stingy, N = 2, cnn_tiny, 5 epochs, 3 seeds, deviation over seeds):
    93.8 +- 1.0 %, and label_only 95.4 +- 0.7. The order of two classes was not worth it.

    References:
        "Listwise Approach to Learning to Rank: Theory and Algorithm" (Xia et al., ICML 2008),
        section 4.3 (ListMLE); ties as in "Covariance Analysis of Censored Survival Data"
        (Breslow, Biometrics 1974).
    """

    name: ClassVar[str] = "rank_distillation"
    title: ClassVar[str] = "the order of the answered classes"
    reference: ClassVar[str] = "Xia et al. 2008, ListMLE, section 4.3"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS})

    n: int | None = None

    def faults(self) -> Iterator[str]:
        if self.n is not None:
            yield from least_faults(2, n=self.n)

    def unsupported_reason(self, data: AttackerData) -> str | None:
        support = 2 if data.indices is None else data.indices.shape[1]
        if (support if data.info is None else data.info.support) < 2:
            return "needs two classes or more, and the endpoint answers one class: use label_only"
        probabilities = data.info is not None and data.info.scores == "prob"
        if probabilities and self.n is None:
            return (
                "needs ranks, and most probabilities on a grid are equal: set n, the ranks to read"
            )
        return None

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        return plackett_luce(student_logits, batch.indices, batch.places, n=self.n)
