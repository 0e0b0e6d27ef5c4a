"""The order of policies by what they let out, measured. Invariant: a doubt is "neither".

A policy is at least as loose as another if the other's answers can be computed from its own. The
computation is tried on seeded rows: an answer is read as a row, with the withheld classes below all
others, and the other policy is applied to that row. The result is compared with the other policy's
true answer.

Two answers that follow from the same noise can reveal the row together, so the noise is the same
in both. A policy that is open is at least as loose as any, because its rows are known. The measured
relation is refined by the grids: no finer numbers follow from coarser ones.

A policy that scrambles its scores and hides something at the same time is read as it is written,
not unscrambled. It is then "neither" beside others.
"""

from enum import StrEnum
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stingy_protection.answers import ScoreForm
from stingy_protection.gate.gate import accept
from stingy_protection.gate.openness import hides_nothing, random_noise, random_rows
from stingy_protection.gate.scores import convert, format_scores
from stingy_protection.ordering import Floats, Floats32, Ints
from stingy_protection.policies.base import NoisyPolicy, Policy

Bools: TypeAlias = npt.NDArray[np.bool_]

# A form tells at least what each form after it tells, on the same grid.
_NUMERIC = (ScoreForm.LOGIT, ScoreForm.LOG_PROB, ScoreForm.PROB)
# Withheld classes get so much less than the least answered one that they weigh nothing.
_BELOW = 30.0
_SAME = 1e-4  # of a score; the logits are float32
_TIE = 0.01
_DRAWS = 8


class Looseness(StrEnum):
    """The place of a policy beside another, by what the two let out."""

    EQUAL = "equal"
    LOOSER = "looser"
    STRICTER = "stricter"
    NEITHER = "neither"


def compare_policies(policy: Policy, other: Policy) -> Looseness:
    """Compare what two policies let out.

    Returns:
        LOOSER if `policy` is the looser one: the answers of `other` follow from its answers, and
        not the reverse. NEITHER if both together reveal more than either.

    Raises:
        PolicyViolation: if a policy fails on a row or breaks a promise.
    """
    forth, back = _determines(policy, other), _determines(other, policy)
    if forth and back:
        return Looseness.EQUAL
    if forth:
        return Looseness.LOOSER
    return Looseness.STRICTER if back else Looseness.NEITHER


@lru_cache(maxsize=1024)
def _determines(policy: Policy, other: Policy) -> bool:
    """Check whether the answers of `other` follow from those of `policy`."""
    if policy.num_classes != other.num_classes:
        return False
    if policy == other or hides_nothing(policy):
        return True
    if hides_nothing(other):
        return False
    rows = _draw_rows(policy.num_classes)
    noise = random_noise(rows)
    indices, scores = _answer(other, rows, noise)
    read, answered = _read_rows(policy, rows, noise)
    found_indices, found = _answer(other, read, noise)
    if other.scores not in _NUMERIC:
        return np.array_equal(indices, found_indices)
    step = 10.0**-other.decimals
    if not _are_close(scores, found, answered, within=step + _SAME, ties=min(step, _TIE)):
        return False
    return _is_constant(indices, scores) or _has_finer_grid(policy, other)


def _draw_rows(num_classes: int) -> Tensor:
    """Draw rows of many spreads from a fixed seed, float32 `[48, classes]`."""
    generator = torch.Generator().manual_seed(24)
    scales = torch.rand(_DRAWS, 1, 1, generator=generator) + 0.5
    return (random_rows(num_classes) * scales).flatten(0, 1)


def _are_close(
    scores: Floats, found: Floats, answered: Bools, *, within: float, ties: float
) -> bool:
    """Check that two answers have the same scores, and the same classes but for ties at the end.

    Args:
        scores, found: `[rows, classes]`, NaN for a class that does not leave.
        within: the largest difference of a score.
        answered: bool `[rows, classes]`, the classes from which `found` was computed.
        ties: answered classes whose scores are so close to an answer's least are interchangeable.
    """
    if (np.isnan(scores).sum(axis=1) != np.isnan(found).sum(axis=1)).any():
        return False
    for one, other in ((scores, found), (found, scores)):
        alone = np.isnan(other) & ~np.isnan(one)
        above = one - np.nanmin(one, axis=1, keepdims=True)
        if (above[alone] > ties).any() or not answered[alone].all():
            return False
    both = ~np.isnan(scores) & ~np.isnan(found)
    return bool((np.abs(scores - found)[both] <= within).all())


def _answer(policy: Policy, rows: Tensor, noise: Tensor) -> tuple[Ints, Floats]:
    """Answer rows without rounding: indices `[rows, n]`, and scores `[rows, classes]`.

    A class that does not leave has the score NaN. The scores of ranks and bare lists are zeros.
    """
    indices, kept = accept(policy, rows, noise if isinstance(policy, NoisyPolicy) else None)
    dense = np.full((len(indices), policy.num_classes), np.nan)
    scores = convert(kept, policy.scores) if policy.scores in _NUMERIC else np.zeros_like(kept)
    np.put_along_axis(dense, indices, scores, axis=1)
    return indices, dense


def _read_rows(policy: Policy, rows: Tensor, noise: Tensor) -> tuple[Tensor, Bools]:
    """Read each answer of a policy as a row of logits.

    Classes with equal rounded scores get the mean of their unrounded ones, because their order is
    withheld. Ranks and bare lists get falling logits.

    Returns:
        float32 `[rows, classes]`, and which classes are in the answers, bool `[rows, classes]`.
    """
    indices, kept = accept(policy, rows, noise if isinstance(policy, NoisyPolicy) else None)
    listed, rounded = format_scores(indices, kept, form=policy.scores, decimals=policy.decimals)
    if rounded is None or policy.scores not in _NUMERIC:
        values = np.tile(-np.arange(listed.shape[1], dtype=np.float64), (len(listed), 1))
    else:
        dense = np.zeros(rows.shape)
        np.put_along_axis(dense, indices, convert(kept, policy.scores), axis=1)
        values = _merge_ties(np.take_along_axis(dense, listed, axis=1), rounded)
        if policy.scores is ScoreForm.PROB:
            values = np.log(np.maximum(values, np.finfo(np.float32).tiny))
    # The top-1 is first whatever its score.
    head = values[:, :1]
    values[:, :1] = np.maximum(head, values.max(axis=1, keepdims=True))
    if values.shape[1] > 1:
        values[:, :1] += np.where(head > values[:, 1:].max(axis=1, keepdims=True), 0.0, _SAME / 10)
    read = np.tile(values.min(axis=1, keepdims=True) - _BELOW, (1, policy.num_classes))
    np.put_along_axis(read, listed, values, axis=1)
    answered = np.zeros(read.shape, dtype=np.bool_)
    np.put_along_axis(answered, listed, True, axis=1)
    return torch.from_numpy(read).float(), answered


def _merge_ties(values: Floats, rounded: Floats32) -> Floats:
    """Replace the values whose rounded ones are equal by their mean, in each row."""
    merged = values.copy()
    for row, keys in zip(merged, rounded, strict=True):
        _, group = np.unique(keys, return_inverse=True)
        row[:] = (np.bincount(group, weights=row) / np.bincount(group))[group]
    return merged


def _is_constant(indices: Ints, scores: Floats) -> bool:
    """Check whether the scores depend on the place in the list alone, so that they tell nothing."""
    listed = np.take_along_axis(scores, indices, axis=1)
    return bool(np.ptp(listed, axis=0).max() < _SAME)


def _has_finer_grid(policy: Policy, other: Policy) -> bool:
    """Check whether numbers of `other` can follow from numbers of `policy` at their grids."""
    return (
        policy.scores in _NUMERIC
        and policy.decimals >= other.decimals
        and _NUMERIC.index(policy.scores) <= _NUMERIC.index(other.scores)
    )
