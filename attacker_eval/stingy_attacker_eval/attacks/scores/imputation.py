"""Estimates of withheld scores from other answers, never above an answered class of the row."""

import torch
from torch import Tensor

from stingy_attacker_eval.attacks.losses import fill_constant


def fill_class_mean(logits: Tensor, top1: Tensor, *, delta: float) -> Tensor:
    """Fill each withheld class with its mean over the answers of the same top-1.

    The mean is over distances to the row's best score. No estimate is above the row's lowest
    score.

    logits: answers `[n, classes]`, -inf where withheld.
    top1: int64 `[n]`.
    delta: distance below the row's lowest score, for a class never answered under this top-1.
    """
    count = logits.shape[1]
    best = logits.amax(dim=1, keepdim=True)
    answered = logits.isfinite()
    distance = torch.where(answered, logits - best, 0.0)
    sums = torch.zeros(count, count, device=logits.device).index_add_(0, top1, distance)
    times = torch.zeros_like(sums).index_add_(0, top1, answered.float())
    estimate = best + (sums / times.clamp_min(1.0))[top1]
    floor = fill_constant(logits, delta=0.0)
    known = torch.where(times[top1] > 0, torch.minimum(estimate, floor), floor - delta)
    return torch.where(answered, logits, known)


def fill_low_rank(
    logits: Tensor, top1: Tensor, *, rank: int, iterations: int, delta: float
) -> Tensor:
    """Complete the answers to a matrix `[n, classes]` that is close to the given rank.

    The completion starts with `fill_class_mean`. Each iteration replaces the withheld scores by
    their projection on the leading directions. No estimate is above the row's lowest score.

    logits, top1, delta: as in `fill_class_mean`.
    rank: leading directions to keep.
    """
    answered = logits.isfinite()
    floor = fill_constant(logits, delta=0.0)
    filled = fill_class_mean(logits, top1, delta=delta)
    for _ in range(iterations):
        # A constant added to a row changes no softmax, so it is removed before the fit.
        offset = filled.mean(dim=1, keepdim=True)
        centred = filled - offset
        mean = centred.mean(dim=0, keepdim=True)
        spread = (centred - mean).double()
        _, vectors = torch.linalg.eigh(spread.T @ spread)
        leading = vectors[:, -rank:]
        estimate = ((spread @ leading) @ leading.T).float() + mean + offset
        filled = torch.where(answered, logits, torch.minimum(estimate, floor))
    return filled
