"""Distillation over a grid of temperatures and weights, on answers bought once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Self

from torch import Tensor

from stingy_attacker_eval.attacks.base import (
    Attack,
    Batch,
    Capability,
    as_float,
    setting_faults,
    tau_alpha_faults,
)
from stingy_attacker_eval.attacks.losses import kd_loss


@dataclass(frozen=True, kw_only=True)
class Sweep(Attack):
    """One point of a tau x alpha grid of the KD loss; a protocol's entry expands into the grid.

    The attacker buys one answer for each of its own images and trains one student for each point
    of the grid, with the KD loss of `paper_kd`. It needs answers with scores for its own images,
    and their true labels; a point at alpha 1 does not use the labels.

    tau, alpha: temperature and weight of the KD term; lists in a protocol.

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

    def faults(self) -> Iterator[str]:
        yield from tau_alpha_faults(self.tau, self.alpha)

    @property
    def needs(self) -> frozenset[Capability]:
        return self.requires if self.alpha < 1 else self.requires - {Capability.LABELS}

    @classmethod
    def expand(cls, settings: Mapping[str, object]) -> tuple[Self, ...]:
        """Return one attack for each pair of tau and alpha.

        The default grid is {1, 2, 4, 20} x {0.1, 0.5, 0.9, 1}.

        settings: "tau" and "alpha", each a list of numbers.

        Raises ValueError, with each fault, if the settings do not fit.
        """
        grid = {"tau": [1.0, 2.0, 4.0, 20.0], "alpha": [0.1, 0.5, 0.9, 1.0]}
        faults = setting_faults(settings, grid)
        for name in (name for name in settings if name in grid):
            try:
                grid[name] = _numbers(name, settings[name])
            except TypeError as error:
                faults.append(str(error))
        points = [*product(grid["tau"], grid["alpha"])]
        found = [fault for point in points for fault in tau_alpha_faults(*point)]
        if faults := [*faults, *dict.fromkeys(found)]:
            raise ValueError("; ".join(faults))
        return tuple(cls(tau=tau, alpha=alpha) for tau, alpha in points)

    def loss(self, student_logits: Tensor, batch: Batch) -> Tensor:
        labels = batch.labels if self.uses_true_labels else None
        return kd_loss(student_logits, batch.logits, labels, tau=self.tau, alpha=self.alpha)


def _numbers(name: str, value: object) -> list[float]:
    if not isinstance(value, list) or not value:
        raise TypeError(f"expected a list of numbers for {name}, got {value!r}")
    if any(isinstance(item, bool) or not isinstance(item, int | float) for item in value):
        raise TypeError(f"expected a list of numbers for {name}, got {value!r}")
    return [as_float(name, item) for item in value]
