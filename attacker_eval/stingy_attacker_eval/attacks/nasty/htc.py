"""High-temperature composition: flat answers and true labels make one target."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, Batch, Capability


@dataclass(frozen=True, kw_only=True)
class Htc(Attack):
    """Training on a mixture of the true label and the answer at a high temperature.

    A nasty teacher's answers have several false peaks. A high temperature flattens them, and the
    true label restores the right one. The relations between the other classes remain:
    L = CE(student, (1 - weight) * true label + weight * softmax(answer / tau)).
    The student itself stays at temperature 1.

    The attacker needs answers with scores for its own images, and their true labels.

    tau: temperature of the answer.
    weight: share of the answer in the target.

    The code of the paper is not public. Formula and defaults are our reading of its idea.

    Its control is `no_api`; with weight 0 the two are equal.

    References:
        "Distilling the Undistillable: Learning from a Nasty Teacher" (Jandial et al., ECCV 2022),
        its attack HTC.
    """

    name: ClassVar[str] = "htc"
    title: ClassVar[str] = "the true label, mixed with a flattened answer"
    reference: ClassVar[str] = "after Jandial et al. 2022, HTC"
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ANSWERS, Capability.SCORES, Capability.LABELS}
    )

    tau: float = 20.0
    weight: float = 0.5

    def faults(self) -> Iterator[str]:
        if not 0 < self.tau < float("inf"):
            yield f"expected a finite tau above 0, got {self.tau}"
        if not 0 <= self.weight <= 1:
            yield f"expected weight in 0..1, got {self.weight}"

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        target = compose_target(batch.logits, batch.labels, tau=self.tau, weight=self.weight)
        return functional.cross_entropy(student_logits, target)


def compose_target(teacher: Tensor, labels: Tensor, *, tau: float, weight: float) -> Tensor:
    """Compute (1 - weight) * one-hot label + weight * softmax(teacher / tau), `[batch, classes]`.

    teacher: answers `[batch, classes]`, -inf where withheld.
    labels: int64 `[batch]`.
    """
    flat = functional.softmax(teacher / tau, dim=1)
    return (1 - weight) * functional.one_hot(labels, teacher.shape[1]) + weight * flat
