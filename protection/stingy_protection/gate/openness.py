"""Openness of a policy, measured. Invariant: a policy is open unless its answers hide something.

An attacker who knows a policy can undo whatever it does to a row, as long as different rows get
different answers. So no inverse is written here. Each class of a few seeded rows is changed a
little, the gate answers, and the changes of the answers show what the attacker could recover. The
covariance of the best unbiased estimate follows from them (the Cramer-Rao bound), with the grid and
the policy's noise as the only errors.

This finds rows that leave in a form that can be undone: reversed, permuted, bent or mixed
scores, fine grids, weak noise. It has three limits.

- It is local. A policy that hides nothing but which of several distant rows it was, such as sorted
  scores without their classes, counts as open.
- Scores alone are read. The order of ranks and bare lists counts as hiding the row.
- A policy that rounds by itself, in steps below a quarter of a row's spread, counts as open. The
  policy's own `decimals` are taken into account. With noise, steps above 0.05 count as hiding.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from stingy_protection.answers import ScoreForm
from stingy_protection.gate.gate import accept
from stingy_protection.gate.scores import convert
from stingy_protection.policies.base import NoisyPolicy, Policy

# A class is recovered if its error is below a tenth of the row's spread: 99 % of the variance. A
# grid of whole numbers on logits is below, and audits found that it teaches as much as a fine one.
TOLERANCE = 0.1
# A row is recovered with nine tenths of its classes, or with all but one. The last class is known
# to be the least, and a student does without it.
PART = 0.9

_SPREADS = (1.0, 2.0, 4.0)  # standard deviations of a row's logits, as networks give them
_PROBED = 10  # classes of a row that are changed; more cost time and show nothing else
_SMALL_STEP = 0.05  # of a logit, at most; the scores are nearly linear in it
_LARGE_STEP = 0.25  # of the row's spread; it crosses the steps of a policy that rounds by itself
_NOISE_STEP = 0.01  # of the standard deviation of the noise
# With noise, what differs by less than this from a linear answer is no information.
_CURVED = 0.02
_CHUNK = 2**14  # logits that the gate gets at once; a policy that solves fits into the cache


def hides_nothing(policy: Policy) -> bool:
    """Check whether the answers of a policy tell whole rows. Only then is the policy open.

    Raises:
        PolicyViolation: if the policy fails on a row or breaks a promise.
    """
    return recovery_error(policy) < TOLERANCE


@lru_cache(maxsize=256)
def recovery_error(policy: Policy) -> float:
    """Measure how exactly an attacker who knows the policy can recover a row from its answer.

    The error is that of the worst class among the nine tenths recovered best, on the kind of row
    that the policy hides worst. The top-1's logit is given, because softmax hides the offset.

    Returns:
        The standard error of a logit, in standard deviations of the row: 0 is exact, and 1 is a
        guess. Below `TOLERANCE`, the policy is open.

    Raises:
        PolicyViolation: if the policy fails on a row or breaks a promise.
    """
    if policy.scores in (ScoreForm.RANK, ScoreForm.NONE):
        return 1.0
    rows = random_rows(policy.num_classes)
    classes = _probed_classes(rows)
    measure = _noisy if isinstance(policy, NoisyPolicy) else _noiseless
    responses = measure(policy, rows, classes)
    # Rows of the identity are what is known without an answer: logits and noise of unit variance.
    known = torch.eye(responses.shape[3], dtype=torch.float64)
    known = known.expand(*responses.shape[:2], -1, -1)
    factor = torch.linalg.qr(torch.cat([responses, known], dim=2), mode="r").R
    inverse = torch.linalg.solve_triangular(factor, known, upper=True)
    probed = classes.shape[1]
    errors = inverse.norm(dim=3)[..., : probed - 1].sort(dim=2).values
    needed = max(1, min(probed - 2, int(np.ceil(PART * probed)) - 1))
    return min(1.0, float(errors[..., needed - 1].min()))


def random_rows(num_classes: int) -> Tensor:
    """Draw logits from a fixed seed, float32 `[6, classes]`, no two of a row equal.

    They are normal with three spreads, peaked, with near ties, and shifted by 100.
    """
    generator = torch.Generator().manual_seed(22)
    jitter = torch.rand(6, num_classes, generator=generator, dtype=torch.float64) - 0.5
    # Jittered quantiles in random order are normal and keep a distance.
    places = (torch.arange(num_classes) + 0.5 + 0.5 * jitter) / num_classes
    rows: Tensor = torch.special.ndtri(places)
    peaked, ties = rows[3], rows[4]
    peaked[-1] += 8.0
    ties[1::2] -= 0.8 * (ties[1::2] - ties[::2][: len(ties[1::2])])
    scales = torch.tensor([*_SPREADS, 1.0, 3.0, 3.0], dtype=torch.float64)
    offsets = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 100.0], dtype=torch.float64)
    order = torch.rand(6, num_classes, generator=generator).argsort(dim=1)
    return (rows * scales[:, None] + offsets[:, None]).gather(1, order).float()


def random_noise(rows: Tensor) -> Tensor:
    """Draw the noise of a noisy policy from a fixed seed, float32 like the rows."""
    return torch.randn(rows.shape, generator=torch.Generator().manual_seed(23))


def _probed_classes(rows: Tensor) -> Tensor:
    """Select up to 10 classes of each row, evenly from the best to the least, `[rows, probed]`."""
    num_classes = rows.shape[1]
    places = torch.linspace(0, num_classes - 1, min(num_classes, _PROBED)).round().long()
    return rows.argsort(dim=1, descending=True)[:, places]


def _noiseless(policy: Policy, rows: Tensor, classes: Tensor) -> Tensor:
    """Measure the responses to a small and a large step, in units of spread over grid.

    Each step goes down, because a withheld class that goes up would enter the answer.

    Returns:
        float64 `[rows, 2, classes, probed - 1]`.
    """
    steps = torch.cat([_small_steps(rows), _LARGE_STEP * rows.std(dim=1, keepdim=True)], dim=1)
    changed, exact = _change(rows, classes, -steps)
    before = dense_scores(policy, rows, None)[:, None, None]
    after = dense_scores(policy, changed.flatten(0, 2), None).view(changed.shape)
    return _in_units(policy, rows, _slopes(before, after, exact)[..., 1:])


def _noisy(policy: Policy, rows: Tensor, classes: Tensor) -> Tensor:
    """Measure the responses to small steps of the logits and of the noise, as `_noiseless` does.

    Both are central differences. Otherwise the curvature of the scores would tell a change of a
    logit from the same change by noise.

    Returns:
        float64 `[rows, 1, classes, 2 probed - 1]`, the noise last.
    """
    noise = random_noise(rows)
    slopes = []
    for changing, step in ((rows, _small_steps(rows)), (noise, _NOISE_STEP)):
        steps = torch.ones(len(rows), 1) * step
        changed, exact = _change(changing, classes, torch.cat([steps, -steps], dim=1))
        same = (noise if changing is rows else rows)[:, None, None].expand(changed.shape)
        both = (changed, same) if changing is rows else (same, changed)
        scores = dense_scores(policy, *(each.flatten(0, 2) for each in both)).view(changed.shape)
        ends = exact[:, :1] - exact[:, 1:]
        slopes.append(_slopes(scores[:, 1:], scores[:, :1], ends))
    by_logit, by_noise = slopes
    curved = _CURVED * by_logit.abs().amax(dim=3, keepdim=True)
    grid = _grid_error(policy)
    total = (grid**2 + curved**2).sqrt()
    by_logit = _in_units(policy, rows, by_logit[..., 1:]) * (grid / total)
    return torch.cat([by_logit, by_noise / total], dim=3)


def _small_steps(rows: Tensor) -> Tensor:
    """Compute a step for each row that changes the order of no two classes, `[rows, 1]`."""
    gaps = rows.sort(dim=1).values.diff(dim=1).amin(dim=1, keepdim=True)
    return (gaps / 4).clamp_max(_SMALL_STEP)


def _change(rows: Tensor, classes: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Change one probed class of a row at a time.

    Args:
        rows: float32 `[rows, classes]`.
        classes: int64 `[rows, probed]`.
        steps: float32 `[rows, sizes]`.

    Returns:
        The changed rows, `[rows, sizes, probed, classes]`, and the changes as float32 has them,
        float64 `[rows, sizes, probed, 1]`.
    """
    shape = (len(rows), steps.shape[1], classes.shape[1], rows.shape[1])
    original = rows[:, None, None].expand(shape)
    place = classes[:, None, :, None].expand(*shape[:-1], 1)
    step = steps[:, :, None, None].expand(*shape[:-1], 1)
    changed = original.contiguous().scatter_add(3, place, step)
    exact = changed.gather(3, place).double() - original.gather(3, place).double()
    return changed, exact


def _slopes(before: Tensor, after: Tensor, change: Tensor) -> Tensor:
    """Compute how much each score moves with each probed class, `[rows, sizes, classes, probed]`.

    A class that is absent before or after has no score that could move.
    """
    return ((after - before) / change).nan_to_num(nan=0.0).transpose(2, 3)


def _grid_error(policy: Policy) -> float:
    """Return the standard deviation of rounding to the policy's grid."""
    return float(10.0**-policy.decimals / 12**0.5)


def _in_units(policy: Policy, rows: Tensor, slopes: Tensor) -> Tensor:
    spread = rows.double().std(dim=1)[:, None, None, None]
    return slopes * (spread / _grid_error(policy))


def dense_scores(policy: Policy, logits: Tensor, noise: Tensor | None) -> Tensor:
    """Compute the unrounded scores in the policy's form, float64 `[batch, classes]`.

    A class that does not leave has NaN.
    """
    few = max(1, _CHUNK // policy.num_classes)
    if len(logits) > few:
        parts = [slice(start, start + few) for start in range(0, len(logits), few)]
        noises = [None if noise is None else noise[part] for part in parts]
        pairs = zip(parts, noises, strict=True)
        return torch.cat([dense_scores(policy, logits[part], some) for part, some in pairs])
    indices, kept = accept(policy, logits, noise)
    dense = np.full((len(indices), policy.num_classes), np.nan)
    np.put_along_axis(dense, indices, convert(kept, policy.scores), axis=1)
    return torch.from_numpy(dense)
