"""ModelGuard-W, a comparator, solved for a whole batch at once.

Invariant: the output is a distribution within the L1 budget of the true one, with its top-1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stingy_protection.answers import ScoreForm
from stingy_protection.policies.base import Policy, Proposal, top1_first

# The published weights are log(y + 1e-6), so that a class of probability 0 has a finite weight.
_OFFSET = 1e-6
# Smaller probabilities are raised to this before their logarithm is taken.
_FLOOR = 1e-9
# Both searches reach about 1e-8, far below the finest grid: 2^-28 and (2/9)^12.
_HALVINGS, _STEPS, _POINTS = 28, 12, 8
# Costs that differ by less than this are equal, and the lower top value is taken.
_SAME = 1e-10


@dataclass(frozen=True, kw_only=True)
class ModelGuardW(Policy):
    """All classes, with probability mass moved to the unlikeliest classes within an L1 budget.

    For the model's distribution y, the output is the y' that minimises sum_k y'_k log y_k. Allowed
    are the distributions with |y' - y|_1 <= eps whose largest entry is still y's top-1.

    Source: Tang et al., "ModelGuard: Information-Theoretic Defense Against Model Extraction
    Attacks", USENIX Security 2024, the variant W. They solve one linear program per query.

    Args:
        eps: the L1 budget, above 0, at most 2.
    """

    name: ClassVar[str] = "modelguard_w"
    scores: ScoreForm = ScoreForm.PROB
    eps: float = 1.0

    @property
    def support(self) -> int:
        return self.num_classes

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if not 0 < self.eps <= 2:
            yield f"expected 0 < eps <= 2, got {self.eps!r}"

    def propose(self, logits: Tensor) -> Proposal:
        values, order = logits.double().sort(dim=1, descending=True, stable=True)
        shares = (values - values[:, :1]).exp()
        disturbed = minimize_cost(shares / _sum_rows(shares), self.eps)
        log_disturbed = disturbed.clamp_min(_FLOOR).log().float()
        return top1_first(
            torch.empty_like(log_disturbed).scatter_(1, order, log_disturbed),
            logits,
            self.num_classes,
        )


def minimize_cost(y: Tensor, eps: float) -> Tensor:
    """Compute the y' of ModelGuard-W for a batch.

    For a given top value t, the best y' moves mass from the likeliest of the other classes to the
    unlikeliest. No entry may exceed t. The cost is convex in t, so the best t lies next to the
    best of a few sampled t.

    Args:
        y: distributions in falling order, float64 `[batch, classes]`.
        eps: the L1 budget.
    """
    top = y[:, :1]
    # Entries above t are cut to t. The lowest t is the one whose cuts just fit the budget.
    low, high = torch.full_like(top, 1 / y.shape[1]), top.clone()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = _sum_rows((y - middle).clamp_min(0)) <= eps / 2
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    low, high = high, (top + eps / 2).clamp_max(1.0)
    steps = torch.arange(1, _POINTS + 1, dtype=y.dtype, device=y.device)
    many = y.repeat_interleave(_POINTS, dim=0)
    cost = (many + _OFFSET).log()
    for _ in range(_STEPS):
        width = (high - low) / (_POINTS + 1)
        tops = (low + width * steps).view(-1, 1)
        costs = _sum_rows(cost * _fill_below_top(many, tops, eps)).view(-1, _POINTS)
        near = costs <= costs.amin(dim=1, keepdim=True) + _SAME
        best = near.int().argmax(dim=1, keepdim=True)
        low, high = low + width * best, low + width * (best + 2)
    return _fill_below_top(y, low, eps)


def _fill_below_top(y: Tensor, top: Tensor, eps: float) -> Tensor:
    """Compute the best y' whose first entry is `top`, `[batch, 1]`. The budget must allow `top`."""
    others = y[:, 1:]
    rise = top - y[:, :1]
    # Without a budget, the unlikeliest classes are filled up to `top`, one after the other.
    rest = 1 - top
    places = torch.arange(others.shape[1] - 1, -1, -1, dtype=y.dtype, device=y.device)
    ideal = torch.minimum((rest - places * top).clamp_min(0), top)
    cuts = (others - top).clamp_min(0)
    taken = torch.minimum(_sum_rows((others - ideal).clamp_min(0)), eps / 2 + rise.clamp_max(0))
    left = others - cuts
    more = (taken - _sum_rows(cuts)).clamp_min(0)
    removed = torch.minimum((more - (left.cumsum(1) - left)).clamp_min(0), left)
    room = (top - others).clamp_min(0)
    room_below = room.flip(1).cumsum(1).flip(1) - room
    given = (taken - rise).clamp_min(0)
    added = torch.minimum((given - room_below).clamp_min(0), room)
    return torch.cat([top, left - removed + added], dim=1)


def _sum_rows(rows: Tensor) -> Tensor:
    """Sum each row, `[batch, 1]`, in an order that does not depend on the number of rows."""
    return rows.cumsum(dim=1)[:, -1:]
