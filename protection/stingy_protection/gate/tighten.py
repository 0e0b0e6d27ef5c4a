"""Making an answer smaller. Invariant: a tightened answer is a function of the answer alone."""

import numpy as np
import torch

from stingy_protection.answers import ScoreForm, SparseLogits
from stingy_protection.gate.scores import told


def tighten(
    answer: SparseLogits,
    *,
    classes: int | None = None,
    decimals: int | None = None,
    form: ScoreForm | None = None,
) -> SparseLogits:
    """Fewer classes, a coarser grid, ranks or labels in place of scores; never more than before.

    Scores of the forms `log_prob` and `prob` are renormalised over the classes that stay, so the
    mass of those that go is not told.

    Args:
        answer: what left the worker.
        classes: the most classes of a row that may stay; None keeps all.
        decimals: the finest grid; None keeps the answer's.
        form: `rank` or `none` in place of the answer's form; None keeps it.

    Raises:
        ValueError: the result would tell more than a tighter answer may.
    """
    if classes is not None and classes < 1:
        raise ValueError(f"expected classes >= 1, got {classes}")
    if form not in (None, ScoreForm.RANK, ScoreForm.NONE):
        raise ValueError(f"expected the form rank or none, got {form}")
    kept = min(classes or answer.indices.shape[1], answer.indices.shape[1])
    grid = answer.decimals if decimals is None else min(decimals, answer.decimals)
    # Where no scores are told, ranks would not tell more: the list is in order already.
    told_form = form if form is not None and answer.scores is not None else answer.form
    if (kept, grid, told_form) == (answer.indices.shape[1], answer.decimals, answer.form):
        return answer
    indices = answer.indices[:, :kept].numpy().copy()
    if answer.scores is None:
        logits = np.zeros(indices.shape)
    else:
        logits = answer.scores[:, :kept].numpy().astype(np.float64)
        if answer.form is ScoreForm.PROB:
            # A share rounded to nothing counts as the most it can have been.
            logits = np.log(np.maximum(logits, 0.5 * 10.0**-answer.decimals))
    indices, scores = told(indices, logits, form=told_form, decimals=grid)
    return SparseLogits(
        indices=torch.from_numpy(indices),
        scores=None if scores is None else torch.from_numpy(scores),
        num_classes=answer.num_classes,
        form=told_form,
        decimals=grid,
    )
