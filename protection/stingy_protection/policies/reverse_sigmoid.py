"""Reverse sigmoid, a comparator. Invariant: the top-1 stays first, whatever the disturbance."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stingy_protection.answers import ScoreForm
from stingy_protection.policies.base import Policy, Proposal, top1_first

# Smaller probabilities are raised to this before their logarithm is taken.
_FLOOR = 1e-30


@dataclass(frozen=True, kw_only=True)
class ReverseSigmoid(Policy):
    """All classes, each with its probability y minus beta (sigmoid(gamma logit(y)) - 1/2).

    If the disturbance puts another class first, the top-1 is raised to that class's score. The map
    is deterministic and public, so a defence-aware attacker inverts it up to the grid.

    Source: Lee et al., "Defending Against Machine Learning Model Stealing Attacks Using Deceptive
    Perturbations", 2018, equations 3 and 4. The defaults are near ModelGuard's.

    Args:
        beta: the strength, above 0, at most 1. Above 1, scores may become negative.
        gamma: the steepness, above 0, at most 1.
    """

    name: ClassVar[str] = "reverse_sigmoid"
    scores: ScoreForm = ScoreForm.PROB
    beta: float = 0.2
    gamma: float = 0.2

    @property
    def support(self) -> int:
        return self.num_classes

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        for option, value in (("beta", self.beta), ("gamma", self.gamma)):
            if not 0 < value <= 1:
                yield f"expected 0 < {option} <= 1, got {value!r}"

    def propose(self, logits: Tensor) -> Proposal:
        # float64, because sums must not depend on the layout of the batch.
        log_y = logits.double().log_softmax(dim=1)
        y = log_y.exp()
        logit_y = log_y - torch.log1p(-y)
        disturbed = y - self.beta * (torch.sigmoid(self.gamma * logit_y) - 0.5)
        return top1_first(disturbed.clamp_min(_FLOOR).log().float(), logits, self.num_classes)
