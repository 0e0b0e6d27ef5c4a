"""Guesses for withheld scores from the other answers; a guess never beats an answered class."""

import torch
from torch import Tensor

from stingy_attacker_eval.attacks.losses import fill_constant


def class_averages(logits: Tensor, top1: Tensor, *, delta: float) -> Tensor:
    """The answers with each withheld class at what it averages under the same top-1.

    logits: `[n, classes]`, -inf where withheld; top1: int64 `[n]`. A class's score counts as its
    distance to the row's best. What was never answered under a top-1 gets the row's smallest
    score - delta, and no guess is above the row's smallest score.
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


def low_rank(logits: Tensor, top1: Tensor, *, rank: int, iterations: int, delta: float) -> Tensor:
    """The answers completed to a matrix close to the given rank, `[n, classes]`.

    Begins at class_means and replaces what was withheld by its projection on the leading
    directions, again and again, never above the row's smallest score.
    """
    answered = logits.isfinite()
    floor = fill_constant(logits, delta=0.0)
    filled = class_averages(logits, top1, delta=delta)
    for _ in range(iterations):
        # A constant a row changes no softmax, so it is taken out before the directions are found.
        offset = filled.mean(dim=1, keepdim=True)
        centred = filled - offset
        mean = centred.mean(dim=0, keepdim=True)
        spread = (centred - mean).double()
        _, vectors = torch.linalg.eigh(spread.T @ spread)
        leading = vectors[:, -rank:]
        estimate = ((spread @ leading) @ leading.T).float() + mean + offset
        filled = torch.where(answered, logits, torch.minimum(estimate, floor))
    return filled
