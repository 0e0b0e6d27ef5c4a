"""How much an answer still tells. Invariant: the true hidden mass is never above the bound."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stingy_protection.answers import ScoreForm, SparseLogits

# Two float32 neighbours lie at most this share of their size apart.
_FLOAT32_STEP = float(np.finfo(np.float32).eps)
_LN_2 = math.log(2)


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
    return torch.from_numpy(np.exp2(-_bits(answer)))


def leak_bits(answer: SparseLogits, *, most: float = 32.0) -> float:
    """How much a batch of answers told: -log2 of the bound on each row's hidden mass, summed.

    Args:
        most: what a row is counted for whose bound is smaller still, or that withholds nothing.
    """
    return float(np.minimum(_bits(answer), most).sum())


def _bits(answer: SparseLogits) -> npt.NDArray[np.float64]:
    """-log2 of the bound `[batch]`."""
    # numpy, and few calls: an answer is small and on the CPU, and is metered at every request.
    num_hidden = answer.num_classes - answer.indices.shape[1]
    if num_hidden == 0:
        return np.full(len(answer), np.inf)
    unscored = math.log2(answer.num_classes / num_hidden)
    if answer.scores is None or answer.form is ScoreForm.RANK:
        return np.full(len(answer), unscored)
    scores = answer.scores.numpy()
    half_grid = 0.5 * 10.0**-answer.decimals
    # A score widened by half a step grows with the score: the smallest is the smallest widened.
    smallest = scores.min(axis=1).astype(np.float64)
    highest = smallest + (half_grid + np.abs(smallest) * _FLOAT32_STEP)
    # log of the smallest Z_A and of the largest e^t, in the units of the form; the probabilities
    # of the support sum to 1 whatever was rounded.
    log_kept: npt.NDArray[np.float64] | float = 0.0
    if answer.form is ScoreForm.LOGIT:
        lowest = scores - (half_grid + np.abs(scores, dtype=np.float64) * _FLOAT32_STEP)
        log_kept = np.logaddexp.reduce(lowest, axis=1)
    elif answer.form is ScoreForm.PROB:
        highest = np.log(highest)
    gap = log_kept - highest - math.log(num_hidden)
    bits: npt.NDArray[np.float64] = np.maximum(np.logaddexp(0.0, gap) / _LN_2, unscored)
    return bits
