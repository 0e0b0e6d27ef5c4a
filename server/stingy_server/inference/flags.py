"""Flags on images: the worker marks the answer of a flagged image, or reports its best classes.

A marked answer has another class first. It is the policy's answer to the image's logits with two
classes exchanged, so it keeps every promise of the policy and looks like any other answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from stingy_protection import Policy, SparseLogits, sanitize
from stingy_protection.policies.base import best_first


@dataclass(slots=True, eq=False)
class Flag:
    """A flag on one image. The worker fills in `best`.

    All images of a request whose answers may be marked have a flag, because the time of an answer
    would otherwise show which are marked.

    Attributes:
        place: k, from 1 on: the k-th class after the best is the mark.
        most: the number of classes after the best that are reported, at least k.
        marked: whether the mark is put first. Otherwise the answer does not change.
        best: the best class and the next `most` ones by the model's logits, best first. Empty until
            the worker has answered.
    """

    place: int
    most: int
    marked: bool
    best: tuple[int, ...] = ()


Flags: TypeAlias = Sequence[Flag | None]  # one for each image of a batch


def mark(
    answer: SparseLogits,
    flags: Flags,
    *,
    policy: Policy,
    logits: Tensor,
    noise: Tensor | None,
) -> SparseLogits:
    """Mark the answers of flagged images, and report their best classes in the flags.

    The gate has accepted the logits before. It accepts the exchanged ones too, or raises. The work
    is the same for all flagged images, marked or not.

    Args:
        answer: the answers of the gate.
        logits: floating [batch, classes], from which the answers were made.
        noise: the noise of these answers, if the policy is noisy.

    Returns:
        The answers, with those of the marked images replaced. The others do not change.

    Raises:
        PolicyViolation: if the policy broke a promise on the exchanged logits.
    """
    flagged = [(row, flag) for row, flag in enumerate(flags) if flag is not None]
    if not flagged:
        return answer
    numbers = [row for row, _ in flagged]
    rows = logits[numbers].to(torch.float32)
    _, best = best_first(rows, 1 + max(flag.most for _, flag in flagged))
    for (_, flag), classes in zip(flagged, best.tolist(), strict=True):
        flag.best = tuple(classes[: 1 + flag.most])
    places = torch.tensor([[flag.place] for _, flag in flagged], device=best.device)
    first, other = best[:, :1], best.gather(1, places)
    exchanged = rows.scatter(1, first, rows.gather(1, other))
    exchanged = exchanged.scatter(1, other, rows.gather(1, first))
    marked = sanitize(policy, exchanged, noise=None if noise is None else noise[numbers])
    replaced = {row: place for place, (row, flag) in enumerate(flagged) if flag.marked}
    return _with_rows(answer, marked, replaced)


def _with_rows(answer: SparseLogits, other: SparseLogits, rows: Mapping[int, int]) -> SparseLogits:
    """Copy an answer, with some rows replaced by rows of another answer of its policy.

    Args:
        rows: from the number of a replaced row to that of a row of `other`.
    """
    replaced, chosen = list(rows), list(rows.values())
    indices = answer.indices.numpy().copy()
    indices[replaced] = other.indices.numpy()[chosen]
    scores = None
    if answer.scores is not None and other.scores is not None:
        scores = answer.scores.numpy().copy()
        scores[replaced] = other.scores.numpy()[chosen]
    return SparseLogits(
        torch.from_numpy(indices),
        None if scores is None else torch.from_numpy(scores),
        answer.num_classes,
        answer.form,
        answer.decimals,
    )
