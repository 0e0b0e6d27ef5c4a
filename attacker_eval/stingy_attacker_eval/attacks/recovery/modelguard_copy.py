"""ModelGuard-W as an attacker computes it, from the published linear program.

The server's own code is not used, because an attacker does not have it.
"""

import torch
from torch import Tensor

_OFFSET = 1e-6
_HALVINGS = 30
_ROUNDS, _POINTS = 4, 33


def disturb(probabilities: Tensor, eps: float) -> Tensor:
    """Compute the y' that minimises sum_k y'_k log(y_k + 1e-6) within an L1 budget.

    y' is a distribution with |y' - y|_1 <= eps whose largest entry is y's first. For a given
    largest entry t, mass moves from the likeliest of the other classes to the unlikeliest, and no
    entry exceeds t. The best t is searched on a grid that shrinks around its best point.

    probabilities: y in falling order, `[n, classes]`.

    "ModelGuard" (Tang et al., USENIX Security 2024), the variant W.
    """
    y = probabilities.double()
    low, high = _lowest_top(y, eps), (y[:, :1] + eps / 2).clamp_max(1.0)
    with torch.no_grad():
        cost = (y + _OFFSET).log()[:, None]
        grid = torch.linspace(0, 1, _POINTS, dtype=y.dtype, device=y.device)
        for _ in range(_ROUNDS):
            tops = low + (high - low) * grid
            costs = (cost * _fill(y[:, None], tops[:, :, None], eps)).sum(dim=2)
            # Among equal costs, the lowest t.
            best = (costs <= costs.amin(dim=1, keepdim=True) + 1e-9).int().argmax(1, keepdim=True)
            near = [(best + step).clamp(0, _POINTS - 1) for step in (-1, 0, 1)]
            low, top, high = (tops.gather(1, at) for at in near)
    return _fill(y, top, eps).to(probabilities.dtype)


def _lowest_top(y: Tensor, eps: float) -> Tensor:
    """Find the lowest t, `[n, 1]`, to which all larger entries can be cut within the budget."""
    low, high = torch.full_like(y[:, :1], 1 / y.shape[1]), y[:, :1].clone()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = (y - middle).clamp_min(0).sum(dim=1, keepdim=True) <= eps / 2
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return high


def _fill(y: Tensor, top: Tensor, eps: float) -> Tensor:
    """Compute the best y' for a given first entry.

    y: `[..., classes]`, in falling order.
    top: `[..., 1]`.
    """
    others = y[..., 1:]
    rise = top - y[..., :1]
    # Without a budget, the unlikeliest classes are filled to `top`, one after the other.
    after = torch.arange(others.shape[-1] - 1, -1, -1, dtype=y.dtype, device=y.device)
    ideal = torch.minimum((1 - top - after * top).clamp_min(0), top)
    cuts = (others - top).clamp_min(0)
    moved = torch.minimum(
        (others - ideal).clamp_min(0).sum(-1, keepdim=True), eps / 2 + rise.clamp_max(0)
    )
    left = others - cuts
    more = (moved - cuts.sum(-1, keepdim=True)).clamp_min(0)
    removed = torch.minimum((more - (left.cumsum(-1) - left)).clamp_min(0), left)
    room = (top - others).clamp_min(0)
    room_after = room.flip(-1).cumsum(-1).flip(-1) - room
    added = torch.minimum(((moved - rise).clamp_min(0) - room_after).clamp_min(0), room)
    return torch.cat([top.expand_as(left[..., :1]), left - removed + added], dim=-1)
