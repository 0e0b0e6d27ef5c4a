"""Tightening of an answer. Invariant: the result depends on the answer alone."""

import numpy as np
import torch

from stingy_protection.answers import ScoreForm, SparseLogits
from stingy_protection.gate.scores import format_scores


def tighten(
    answer: SparseLogits,
    *,
    classes: int | None = None,
    decimals: int | None = None,
    form: ScoreForm | None = None,
) -> SparseLogits:
    """Reduce an answer to fewer classes, a coarser grid, ranks or labels.

    Scores of the forms `log_prob` and `prob` are renormalised over the remaining classes, so that
    they do not leak the mass of the removed ones.

    Args:
        answer: the answer that left the worker.
        classes: the largest number of classes of a row. None keeps all.
        decimals: the finest grid, in decimal places. None keeps the answer's grid.
        form: `rank` or `none` instead of the answer's form. None keeps the answer's form.

    Raises:
        ValueError: if `classes` is below 1, or `form` is neither `rank`, `none` nor None.
    """
    if classes is not None and classes < 1:
        raise ValueError(f"expected classes >= 1, got {classes}")
    if form not in (None, ScoreForm.RANK, ScoreForm.NONE):
        raise ValueError(f"expected the form rank or none, got {form}")
    kept = min(classes or answer.indices.shape[1], answer.indices.shape[1])
    grid = answer.decimals if decimals is None else min(decimals, answer.decimals)
    # Ranks would add nothing to an answer without scores, because its list is already in order.
    new_form = form if form is not None and answer.scores is not None else answer.form
    if (kept, grid, new_form) == (answer.indices.shape[1], answer.decimals, answer.form):
        return answer
    indices = answer.indices[:, :kept].numpy().copy()
    if answer.scores is None:
        logits = np.zeros(indices.shape)
    else:
        logits = answer.scores[:, :kept].numpy().astype(np.float64)
        if answer.form is ScoreForm.PROB:
            # A probability that was rounded to 0 counts as the largest one that rounds to 0.
            logits = np.log(np.maximum(logits, 0.5 * 10.0**-answer.decimals))
    indices, scores = format_scores(indices, logits, form=new_form, decimals=grid)
    return SparseLogits(
        indices=torch.from_numpy(indices),
        scores=None if scores is None else torch.from_numpy(scores),
        num_classes=answer.num_classes,
        form=new_form,
        decimals=grid,
    )
