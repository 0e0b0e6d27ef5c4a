"""The attacker who tries several temperatures and weights on the answers it already has."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Self

from torch import Tensor

from stingy_attacker_eval.attacks.base import Attack, Batch, Capability, check_tau_alpha
from stingy_attacker_eval.attacks.losses import kd_loss


@dataclass(frozen=True, kw_only=True)
class Sweep(Attack):
    """One point of a tau x alpha grid of the KD loss; a protocol's entry expands into all.

    References:
        "Undistillable: Making a Nasty Teacher That Cannot Teach Students" (Ma et al., ICLR
        2021), the ablations over tau and alpha.
    """

    name: ClassVar[str] = "sweep"
    title: ClassVar[str] = "distillation over a grid of tau and alpha"
    reference: ClassVar[str] = "Ma et al. 2021, ablations over tau and alpha"
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ANSWERS, Capability.SCORES, Capability.LABELS}
    )

    tau: float
    alpha: float

    def __post_init__(self) -> None:
        check_tau_alpha(self.tau, self.alpha)

    @property
    def uses_true_labels(self) -> bool:
        return self.alpha < 1

    @classmethod
    def expand(cls, settings: Mapping[str, object]) -> tuple[Self, ...]:
        """tau and alpha are lists; by default the grid {1, 2, 4, 20} x {0.1, 0.5, 0.9, 1}."""
        grid = {"tau": [1.0, 2.0, 4.0, 20.0], "alpha": [0.1, 0.5, 0.9, 1.0], **settings}
        unknown = sorted(set(grid) - {"tau", "alpha"})
        if unknown:
            raise TypeError(f"unexpected settings {', '.join(unknown)}")
        taus, alphas = (_numbers(name, grid[name]) for name in ("tau", "alpha"))
        return tuple(cls(tau=tau, alpha=alpha) for tau, alpha in product(taus, alphas))

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        return kd_loss(student_logits, batch.logits, batch.labels, tau=self.tau, alpha=self.alpha)


def _numbers(name: str, value: object) -> list[float]:
    if not isinstance(value, list) or not value:
        raise TypeError(f"expected a list of numbers for {name}")
    if any(isinstance(item, bool) or not isinstance(item, int | float) for item in value):
        raise TypeError(f"expected a list of numbers for {name}")
    return [float(item) for item in value]
