"""How much an answer still tells. Invariant: the true hidden mass is never above the bound."""

import math

import torch
from torch import Tensor

from stingy_protection.answers import ScoreForm, SparseLogits

# Two float32 neighbours lie at most this share of their size apart.
_FLOAT32_STEP = torch.finfo(torch.float32).eps


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
    unscored = torch.full((len(answer),), num_hidden / answer.num_classes, dtype=torch.float64)
    if num_hidden == 0 or answer.scores is None or answer.form is ScoreForm.RANK:
        return unscored
    scores = answer.scores.double()
    half_step = 0.5 * 10.0**-answer.decimals + scores.abs() * _FLOAT32_STEP
    highest = (scores + half_step).amin(dim=1)
    # log of the smallest Z_A and the largest e^t, in the units of the form; the probabilities of
    # the support sum to 1 whatever was rounded.
    if answer.form is ScoreForm.LOGIT:
        log_kept, log_smallest = (scores - half_step).logsumexp(dim=1), highest
    elif answer.form is ScoreForm.LOG_PROB:
        log_kept, log_smallest = torch.zeros_like(highest), highest
    else:
        log_kept, log_smallest = torch.zeros_like(highest), highest.log()
    bound = torch.sigmoid(math.log(num_hidden) + log_smallest - log_kept)
    return bound.minimum(unscored)
