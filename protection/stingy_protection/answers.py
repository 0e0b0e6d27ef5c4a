"""The answer types. Invariant: an answer owns exactly the bytes that it shows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stingy_protection.errors import PolicyViolation


class ScoreForm(StrEnum):
    """The form of the scores on the support.

    `log_prob` and `prob` are renormalised over the support. `logit` is the policy's own logit.
    `rank` is 1..N. `none` has no scores.
    """

    LOG_PROB = "log_prob"
    PROB = "prob"
    LOGIT = "logit"
    RANK = "rank"
    NONE = "none"


@dataclass(frozen=True, eq=False)
class SparseLogits:
    """N classes of each row and their scores: the only type that may leave the worker.

    Args:
        indices: int64 `[batch, N]`, on the CPU, the top-1 first.
        scores: float32 `[batch, N]`, on the CPU, on the grid. None for the form `none`.
        num_classes: K, the number of the model's classes.
        form: the form of the scores.
        decimals: the grid, in decimal places.

    Raises:
        PolicyViolation: if a tensor has another type or shape, or shares a larger storage.
            A view of 5 of 100 000 logits would pickle to the whole row.
    """

    # repr=False, because an answer may be logged and its numbers may not.
    indices: Tensor = field(repr=False)
    scores: Tensor | None = field(repr=False)
    num_classes: int
    form: ScoreForm
    decimals: int

    def __post_init__(self) -> None:
        _check_own_storage(self.indices, torch.int64)
        if (self.scores is None) != (self.form is ScoreForm.NONE):
            got = "no scores" if self.scores is None else "scores"
            raise PolicyViolation(
                f"expected scores unless the form is none, got {got} for the form {self.form}"
            )
        if self.scores is not None:
            _check_own_storage(self.scores, torch.float32)
            if self.scores.shape != self.indices.shape:
                raise PolicyViolation("expected one score for every index, got another shape")

    def __len__(self) -> int:
        return self.indices.shape[0]

    def rows(self, start: int, stop: int) -> "SparseLogits":
        """Copy the rows start..stop-1 into an answer with its own storage."""
        return self._copy(
            self.indices.numpy()[start:stop],
            None if self.scores is None else self.scores.numpy()[start:stop],
        )

    def split(self, sizes: Sequence[int]) -> "list[SparseLogits]":
        """Split the rows into answers of `sizes[0]` rows, `sizes[1]` rows, and so on."""
        if len(sizes) == 1:
            return [self]
        # numpy cuts and copies small arrays in a fraction of the time that torch takes.
        indices = self.indices.numpy()
        scores = None if self.scores is None else self.scores.numpy()
        parts = [
            slice(stop - size, stop) for size, stop in zip(sizes, accumulate(sizes), strict=True)
        ]
        return [self._copy(indices[p], None if scores is None else scores[p]) for p in parts]

    def _copy(
        self, indices: npt.NDArray[np.int64], scores: npt.NDArray[np.float32] | None
    ) -> "SparseLogits":
        """Copy some rows into an answer with its own storage."""
        return SparseLogits(
            torch.from_numpy(indices.copy()),
            None if scores is None else torch.from_numpy(scores.copy()),
            self.num_classes,
            self.form,
            self.decimals,
        )

    @staticmethod
    def concatenate(answers: Sequence["SparseLogits"]) -> "SparseLogits":
        """Join the answers of several batches under one policy into one answer."""
        first = answers[0]
        scores = [answer.scores for answer in answers if answer.scores is not None]
        return SparseLogits(
            indices=torch.cat([answer.indices for answer in answers]),
            scores=torch.cat(scores) if scores else None,
            num_classes=first.num_classes,
            form=first.form,
            decimals=first.decimals,
        )


def _check_own_storage(tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype is not dtype or tensor.dim() != 2 or tensor.device.type != "cpu":
        raise PolicyViolation(f"expected a {dtype} tensor [batch, N] on the CPU, got another")
    own_bytes = tensor.numel() * tensor.element_size()
    if not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != own_bytes:
        raise PolicyViolation("expected a tensor with its own storage, got a view; clone it")
