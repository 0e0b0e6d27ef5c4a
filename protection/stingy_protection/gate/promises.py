"""Checks of an answer from another gate. Invariant: no promise of the policy is trusted."""

import numpy as np
import torch

from stingy_protection.answers import ScoreForm, SparseLogits
from stingy_protection.errors import PolicyViolation
from stingy_protection.gate.scores import format_scores
from stingy_protection.ordering import Floats32, Ints
from stingy_protection.policies.base import Policy


def verify_answer(policy: Policy, indices: Ints, scores: Floats32 | None) -> SparseLogits:
    """Check an answer of another gate against the promises of `policy`.

    The check covers the number of classes, the score form, the grid and the order. It cannot
    cover the choice of the classes, because the logits are not known here.

    Args:
        policy: the policy that the other gate applies.
        indices: int64 `[batch, n]`, the top-1 first.
        scores: float32 `[batch, n]`, or None if the policy has no scores.

    Returns:
        The same answer, in its own storage.

    Raises:
        PolicyViolation: if a promise is broken.
    """
    if indices.ndim != 2 or indices.dtype != np.int64 or len(indices) < 1:
        raise PolicyViolation("expected int64 indices [batch, n], got another array")
    if not 1 <= indices.shape[1] <= policy.support:
        raise PolicyViolation(f"expected 1..{policy.support} entries, got {indices.shape[1]}")
    if indices.min() < 0 or indices.max() >= policy.num_classes:
        raise PolicyViolation(f"expected indices 0..{policy.num_classes - 1}, got one out of range")
    rising = np.sort(indices, axis=1)
    if (rising[:, 1:] == rising[:, :-1]).any():
        raise PolicyViolation("expected unique indices in each row, got one twice")
    if scores is not None:
        _check_scores(policy, indices, scores)
    return SparseLogits(
        indices=torch.from_numpy(indices.copy()),
        # -0.0 and 0.0 are the same value of the grid, so both leave as 0.0.
        scores=None if scores is None else torch.from_numpy(scores + np.float32(0.0)),
        num_classes=policy.num_classes,
        form=policy.scores,
        decimals=policy.decimals,
    )


def _check_scores(policy: Policy, indices: Ints, scores: Floats32) -> None:
    if scores.dtype != np.float32 or scores.shape != indices.shape:
        raise PolicyViolation("expected one float32 score for every index, got another array")
    if policy.scores is ScoreForm.RANK:
        if (scores != np.arange(1, scores.shape[1] + 1)).any():
            raise PolicyViolation("expected the ranks 1..n, got others")
        return
    exact = scores.astype(np.float64)
    # Formatting a formatted answer again changes nothing, whatever its form. NaN and infinity are
    # on no grid, so formatting changes them.
    sorted_indices, rounded = format_scores(
        indices, exact, form=ScoreForm.LOGIT, decimals=policy.decimals
    )
    best_first = (scores[:, :1] >= scores).all()
    if rounded is None or not best_first or not np.array_equal(rounded, scores):
        raise PolicyViolation(f"expected falling scores at {policy.decimals} decimals, got others")
    if not np.array_equal(sorted_indices, indices):
        raise PolicyViolation("expected equal scores by rising index, got another order")
    if policy.scores is ScoreForm.LOGIT:
        return
    # Scores are renormalised over the support, so that they do not leak the withheld mass.
    # Rounding moves each score by at most half a grid step, so the sum may be off by that much.
    half_step = 0.5 * 10.0**-policy.decimals + 1e-6
    if policy.scores is ScoreForm.PROB:
        off = np.abs(exact.sum(axis=1) - 1.0).max() / exact.shape[1]
        outside = exact.min() < 0.0
    else:
        with np.errstate(over="ignore"):
            off = np.abs(np.log(np.exp(exact).sum(axis=1))).max()
        outside = exact.max() > 0.0
    if outside or not off <= half_step:
        raise PolicyViolation("expected scores that are renormalised over the support, got others")
