"""How scores are told. Invariant: the order of a list never tells more than its scores."""

import numpy as np
import numpy.typing as npt

from stingy_protection.answers import ScoreForm

# What is small and on the CPU is numpy's: for a single row each call costs a tenth of torch's.
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]


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
    largest = np.finfo(np.float32).max
    rounded = np.rint(scores * steps) / steps + 0.0
    return np.clip(rounded, -largest, largest).astype(np.float32)


def _listed(indices: Ints, scores: Floats32) -> tuple[Ints, Floats32]:
    """The first entry stays; the others go by falling score, then by rising index."""
    # One sort of integers, score above index: the bits of a float32 rise with its value once the
    # lower bits of the negative ones are flipped. Sorting by two keys takes 20 times as long.
    bits = scores.view(np.int32)
    falling = ~(bits ^ (bits >> 31 & 0x7FFFFFFF))
    keys = falling.astype(np.int64) << 32 | indices
    keys[:, 1:].sort(axis=1)
    falling = ~(keys >> 32).astype(np.int32)
    return keys & 0xFFFFFFFF, (falling ^ (falling >> 31 & 0x7FFFFFFF)).view(np.float32)
