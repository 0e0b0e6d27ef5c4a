"""What may leave the model worker. Invariant: an answer owns exactly the bytes it shows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate

import torch
from torch import Tensor

from stingy_protection.errors import PolicyViolation


class ScoreForm(StrEnum):
    """How the scores on the support are told.

    `log_prob` and `prob` are renormalised over the support, `logit` is the policy's own logit,
    `rank` is 1..N, and `none` tells no score at all.
    """

    LOG_PROB = "log_prob"
    PROB = "prob"
    LOGIT = "logit"
    RANK = "rank"
    NONE = "none"


@dataclass(frozen=True, eq=False)
class SparseLogits:
    """The only type that may leave the worker: N classes of each row and their scores.

    Args:
        indices: int64 `[batch, N]`, on the CPU, the top-1 first.
        scores: float32 `[batch, N]`, on the CPU, on the grid; None for the form `none`.
        num_classes: how many classes the model knows.
        form: what the scores are.
        decimals: the grid, in decimal places.

    Raises:
        PolicyViolation: the tensors are of another type or shape, or share a larger storage.
            (A view of 5 out of 100 000 logits pickles to the whole row.)
    """

    # repr=False: an answer may be logged, its numbers may not.
    indices: Tensor = field(repr=False)
    scores: Tensor | None = field(repr=False)
    num_classes: int
    form: ScoreForm
    decimals: int

    def __post_init__(self) -> None:
        _demand_own_storage(self.indices, torch.int64)
        if (self.scores is None) != (self.form is ScoreForm.NONE):
            raise PolicyViolation("expected scores in every form but none, got the contrary")
        if self.scores is not None:
            _demand_own_storage(self.scores, torch.float32)
            if self.scores.shape != self.indices.shape:
                raise PolicyViolation("expected one score for every index, got another shape")

    def __len__(self) -> int:
        return self.indices.shape[0]

    def rows(self, start: int, stop: int) -> "SparseLogits":
        """The answers of the rows start..stop-1, in storage of their own."""
        return SparseLogits(
            indices=self.indices[start:stop].clone(),
            scores=None if self.scores is None else self.scores[start:stop].clone(),
            num_classes=self.num_classes,
            form=self.form,
            decimals=self.decimals,
        )

    def split(self, sizes: Sequence[int]) -> "list[SparseLogits]":
        """The answers of the first `sizes[0]` rows, of the next `sizes[1]`, and so on."""
        if len(sizes) == 1:
            return [self]
        stops = accumulate(sizes)
        return [self.rows(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]

    @staticmethod
    def concatenate(answers: Sequence["SparseLogits"]) -> "SparseLogits":
        """The answers of several batches under one policy as those of one batch."""
        first = answers[0]
        scores = [answer.scores for answer in answers if answer.scores is not None]
        return SparseLogits(
            indices=torch.cat([answer.indices for answer in answers]),
            scores=torch.cat(scores) if scores else None,
            num_classes=first.num_classes,
            form=first.form,
            decimals=first.decimals,
        )


def _demand_own_storage(tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype is not dtype or tensor.dim() != 2 or tensor.device.type != "cpu":
        raise PolicyViolation(f"expected a {dtype} tensor [batch, N] on the CPU, got another")
    own_bytes = tensor.numel() * tensor.element_size()
    if not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != own_bytes:
        raise PolicyViolation("expected a tensor with its own storage, got a view; clone it")
