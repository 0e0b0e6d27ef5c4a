"""How scores are told. Invariant: the order of a list never tells more than its scores."""

import numpy as np

from stingy_protection.answers import ScoreForm
from stingy_protection.ordering import Floats as Floats
from stingy_protection.ordering import Floats32 as Floats32
from stingy_protection.ordering import Ints as Ints
from stingy_protection.ordering import ordered

LARGEST = float(np.finfo(np.float32).max)


def told(
    indices: Ints, kept: Floats, *, form: ScoreForm, decimals: int
) -> tuple[Ints, Floats32 | None]:
    """The list as it leaves: scores in their form and on their grid, in canonical order.

    Args:
        indices: `[batch, n]`, best first, the top-1 at the head.
        kept: the logits of these classes, `[batch, n]`.
    """
    if form is ScoreForm.NONE:
        return indices, None
    if form is ScoreForm.RANK:
        ranks = np.arange(1, indices.shape[1] + 1, dtype=np.float32)
        return indices, np.tile(ranks, (len(indices), 1))
    return _listed(indices, _on_grid(_scores(kept, form), decimals))


def _scores(kept: Floats, form: ScoreForm) -> Floats:
    """The scores `[batch, n]` before rounding; in float64, whose own rounding the grid hides."""
    if form is ScoreForm.LOGIT:
        return kept
    shifted = kept - kept.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    result: Floats = exponentials / total if form is ScoreForm.PROB else shifted - np.log(total)
    return result


def _on_grid(scores: Floats, decimals: int) -> Floats32:
    """Rounded to the grid, never -0.0, never beyond what float32 reaches."""
    steps = 10.0**decimals
    rounded = scores * steps
    np.rint(rounded, out=rounded)
    rounded /= steps
    rounded += 0.0
    np.minimum(rounded, LARGEST, out=rounded)
    return np.maximum(rounded, -LARGEST, out=rounded).astype(np.float32)


def _listed(indices: Ints, scores: Floats32) -> tuple[Ints, Floats32]:
    """The first entry stays; the others go by falling score, then by rising index."""
    if (scores[:, 1:-1] > scores[:, 2:]).all():  # no two are equal, and they are in order
        return indices, scores
    scores, indices = ordered(scores, indices, after=1)
    return indices, scores
