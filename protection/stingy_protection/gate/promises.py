"""An answer that was sanitised elsewhere. Invariant: no promise of the policy is taken on trust."""

import numpy as np
import torch

from stingy_protection.answers import ScoreForm, SparseLogits
from stingy_protection.errors import PolicyViolation
from stingy_protection.gate.scores import told
from stingy_protection.ordering import Floats32, Ints
from stingy_protection.policies.base import Policy


def verified_answer(policy: Policy, indices: Ints, scores: Floats32 | None) -> SparseLogits:
    """What another gate let out, if it tells no more than the policy lets out.

    That the classes are the right ones cannot be seen from here; how many there are, in which
    form, on which grid and in which order they are told, can.

    Args:
        policy: what may leave.
        indices: int64 `[batch, n]`, the top-1 first.
        scores: float32 `[batch, n]`, or None where the policy tells none.

    Returns:
        The same answer, in storage of its own.

    Raises:
        PolicyViolation: a promise is broken.
    """
    if indices.ndim != 2 or indices.dtype != np.int64 or len(indices) < 1:
        raise PolicyViolation("expected int64 indices [batch, n], got another array")
    if not 1 <= indices.shape[1] <= policy.support:
        raise PolicyViolation(f"expected 1..{policy.support} entries, got {indices.shape[1]}")
    if indices.min() < 0 or indices.max() >= policy.num_classes:
        raise PolicyViolation(f"expected indices 0..{policy.num_classes - 1}, got one out of range")
    ordered = np.sort(indices, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise PolicyViolation("expected unique indices in each row, got one twice")
    if scores is not None:
        _check_scores(policy, indices, scores)
    return SparseLogits(
        indices=torch.from_numpy(indices.copy()),
        # -0.0 and 0.0 are one value of the grid, and leave as one.
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
    # Telling what was told already changes nothing, whatever its form; NaN and infinity are on
    # no grid.
    listed, on_grid = told(indices, exact, form=ScoreForm.LOGIT, decimals=policy.decimals)
    best_first = (scores[:, :1] >= scores).all()
    if on_grid is None or not best_first or not np.array_equal(on_grid, scores):
        raise PolicyViolation(f"expected falling scores at {policy.decimals} decimals, got others")
    if not np.array_equal(listed, indices):
        raise PolicyViolation("expected equal scores by rising index, got another order")
    if policy.scores is ScoreForm.LOGIT:
        return
    # Renormalised over the support, so that the mass of what is withheld is not told: the sum
    # may be off by what rounding moves, half a step of the grid a score.
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
