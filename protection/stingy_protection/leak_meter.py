"""How much an answer still tells. Invariant: the true hidden mass is never above the bound."""

import math

import numpy as np
import torch
from torch import Tensor

from stingy_protection.answers import ScoreForm, SparseLogits

# Two float32 neighbours lie at most this share of their size apart.
_FLOAT32_STEP = float(np.finfo(np.float32).eps)
_FARTHEST = 700.0  # the largest power of e in float64; beyond it the bound is rounded up to that


def hidden_mass_bound(answer: SparseLogits) -> Tensor:
    """An upper bound on the probability mass of the withheld classes, in 0..1.

    With the kept logits A, their exponentials' sum Z_A and the smallest of them t, every withheld
    logit is at most t, so the hidden mass is at most U = (K-N) e^t / (Z_A + (K-N) e^t). That is
    what a reader of the answer can be sure of, and the wider the gap to 1, the more it tells. Each
    score is widened by half a grid step, so that the bound holds for what was rounded. It never
    exceeds (K-N)/K, which holds without any score.

    It is a bound for policies that withhold the smallest logits and keep the others as they are.

    Source: "top-K censoring", arXiv 2605.10407; U is the diameter, in total variation, of the set
    of distributions that fit the answer.

    Args:
        answer: scores of any form `[batch, N]`.

    Returns:
        float64 `[batch]`; 0 where nothing is withheld.
    """
    num_hidden = answer.num_classes - answer.indices.shape[1]
    unscored = num_hidden / answer.num_classes
    if num_hidden == 0 or answer.scores is None or answer.form is ScoreForm.RANK:
        return torch.full((len(answer),), unscored, dtype=torch.float64)
    # numpy: an answer is small and on the CPU, and is metered at every request.
    scores = answer.scores.numpy().astype(np.float64)
    half_step = 0.5 * 10.0**-answer.decimals + np.abs(scores) * _FLOAT32_STEP
    highest = (scores + half_step).min(axis=1)
    # log of the smallest Z_A and of the largest e^t, in the units of the form; the probabilities
    # of the support sum to 1 whatever was rounded.
    log_kept = np.zeros(len(scores))
    if answer.form is ScoreForm.LOGIT:
        lowest = scores - half_step
        top = lowest.max(axis=1)
        log_kept = top + np.log(np.exp(lowest - top[:, None]).sum(axis=1))
    elif answer.form is ScoreForm.PROB:
        highest = np.log(highest)
    gap = log_kept - highest - math.log(num_hidden)
    bound = 1 / (1 + np.exp(np.minimum(gap, _FARTHEST)))
    return torch.from_numpy(np.minimum(bound, unscored))
