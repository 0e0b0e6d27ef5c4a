"""The no-API baseline: the same student without any query."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, Batch, Capability


@dataclass(frozen=True, kw_only=True)
class NoApi(Attack):
    """Training on own labels: the baseline from which every uplift is counted.

    The attacker sends no query and trains on the true labels of its own images:
    L = CE(student, true label). It needs its own images with true labels.

    References:
        "Sparse Logits Suffice to Fail Knowledge Distillation" (Ma et al., 2022), Table 1,
        "student baseline".
    """

    name: ClassVar[str] = "no_api"
    title: ClassVar[str] = "training without the API"
    reference: ClassVar[str] = "Ma et al. 2022, Table 1, student baseline"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS})

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(student_logits, batch.labels)
