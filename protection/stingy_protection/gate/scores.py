"""The format of scores. Invariant: the order of a list never leaks more than its scores."""

import numpy as np

from stingy_protection.answers import ScoreForm
from stingy_protection.ordering import Floats, Floats32, Ints, sort_entries

LARGEST = float(np.finfo(np.float32).max)


def format_scores(
    indices: Ints, kept: Floats, *, form: ScoreForm, decimals: int
) -> tuple[Ints, Floats32 | None]:
    """Convert logits to scores in their form, round them to the grid, and sort the entries.

    Args:
        indices: `[batch, n]`, best first, the top-1 at the head.
        kept: the logits of these classes, `[batch, n]`.
        form: the form of the scores.
        decimals: the grid, in decimal places.

    Returns:
        indices and scores, `[batch, n]`. The scores are None for the form `none`.
    """
    if form is ScoreForm.NONE:
        return indices, None
    if form is ScoreForm.RANK:
        ranks = np.arange(1, indices.shape[1] + 1, dtype=np.float32)
        return indices, np.tile(ranks, (len(indices), 1))
    return _sort_by_score(indices, _round_to_grid(convert(kept, form), decimals))


def convert(kept: Floats, form: ScoreForm) -> Floats:
    """Convert logits to unrounded scores `[batch, n]`.

    They are float64, because the grid hides float64's own rounding.
    """
    if form is ScoreForm.LOGIT:
        return kept
    shifted = kept - kept.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    result: Floats = exponentials / total if form is ScoreForm.PROB else shifted - np.log(total)
    return result


def _round_to_grid(scores: Floats, decimals: int) -> Floats32:
    """Round to the grid, replace -0.0 by 0.0, and clamp to the range of float32."""
    steps = 10.0**decimals
    rounded = scores * steps
    np.rint(rounded, out=rounded)
    rounded /= steps
    rounded += 0.0
    np.minimum(rounded, LARGEST, out=rounded)
    return np.maximum(rounded, -LARGEST, out=rounded).astype(np.float32)


def _sort_by_score(indices: Ints, scores: Floats32) -> tuple[Ints, Floats32]:
    """Sort all entries but the first by falling score, then by rising index."""
    if (scores[:, 1:-1] > scores[:, 2:]).all():  # already sorted, without ties
        return indices, scores
    scores, indices = sort_entries(scores, indices, after=1)
    return indices, scores
