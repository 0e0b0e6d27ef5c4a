"""The leak meter of answers. Invariant: the true hidden mass is never above the bound."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stingy_protection.answers import ScoreForm, SparseLogits

# Neighbouring float32 values differ by at most this fraction of their size.
_FLOAT32_STEP = float(np.finfo(np.float32).eps)
_LN_2 = math.log(2)


def hidden_mass_bound(answer: SparseLogits) -> Tensor:
    """Bound the probability mass of the withheld classes from above, in 0..1.

    Let A be the kept logits, t the smallest of them, and Z_A the sum of their exponentials. Every
    withheld logit is at most t. So the hidden mass is at most
    U = (K-N) e^t / (Z_A + (K-N) e^t).

    A reader of the answer can rely on U, so an answer leaks more the further U is below 1. Each
    score is widened by half a grid step, so that the bound also holds for rounded scores. U never
    exceeds (K-N)/K, because that bound needs no score.

    The bound holds for policies that withhold the smallest logits and do not change the others.

    Source: "top-K censoring", arXiv 2605.10407. U is the diameter, in total variation, of the set
    of distributions that fit the answer.

    Args:
        answer: scores of any form, `[batch, N]`.

    Returns:
        float64 `[batch]`. 0 for a row that withholds nothing.
    """
    return torch.from_numpy(np.exp2(-_compute_bits(answer)))


def leak_bits(answer: SparseLogits, *, most: float = 32.0) -> float:
    """Measure the leak of a batch in bits: the sum of the bits of its rows.

    Args:
        answer: scores of any form, `[batch, N]`.
        most: the largest count of one row, in bits. A row that withholds nothing counts this much.
    """
    return float(row_bits(answer, most=most).sum())


def row_bits(answer: SparseLogits, *, most: float = 32.0) -> npt.NDArray[np.float64]:
    """Measure the leak of each row in bits: -log2 of its hidden-mass bound, `[batch]`.

    Args:
        answer: scores of any form, `[batch, N]`.
        most: the largest count of one row, in bits. A row that withholds nothing counts this much.
    """
    return np.minimum(_compute_bits(answer), most)


def _compute_bits(answer: SparseLogits) -> npt.NDArray[np.float64]:
    """Compute -log2 of the bound, `[batch]`."""
    # numpy and few calls, because every request is metered and an answer is small and on the CPU.
    num_hidden = answer.num_classes - answer.indices.shape[1]
    if num_hidden == 0:
        return np.full(len(answer), np.inf)
    unscored = math.log2(answer.num_classes / num_hidden)
    if answer.scores is None or answer.form is ScoreForm.RANK:
        return np.full(len(answer), unscored)
    scores = answer.scores.numpy()
    half_grid = 0.5 * 10.0**-answer.decimals
    # Widening by half a step keeps the order, so the smallest score is also the smallest widened.
    smallest = scores.min(axis=1).astype(np.float64)
    highest = smallest + (half_grid + np.abs(smallest) * _FLOAT32_STEP)
    # log of the smallest Z_A and of the largest e^t, in the units of the form. The probabilities
    # of the support sum to 1 before rounding, so log Z_A is 0 for them.
    log_kept: npt.NDArray[np.float64] | float = 0.0
    if answer.form is ScoreForm.LOGIT:
        lowest = scores - (half_grid + np.abs(scores, dtype=np.float64) * _FLOAT32_STEP)
        log_kept = np.logaddexp.reduce(lowest, axis=1)
    elif answer.form is ScoreForm.PROB:
        highest = np.log(highest)
    gap = log_kept - highest - math.log(num_hidden)
    bits: npt.NDArray[np.float64] = np.maximum(np.logaddexp(0.0, gap) / _LN_2, unscored)
    return bits
