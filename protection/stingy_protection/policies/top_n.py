"""Policies that keep the largest logits. Invariant: each depends on one row and its options."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stingy_protection.answers import ScoreForm
from stingy_protection.policies.base import Policy, Proposal, best_first, is_integer


@dataclass(frozen=True, kw_only=True)
class Open(Policy):
    """All logits, without protection: the paper's "normal" baseline."""

    name: ClassVar[str] = "open"
    scores: ScoreForm = ScoreForm.LOGIT

    @property
    def support(self) -> int:
        return self.num_classes

    def propose(self, logits: Tensor) -> Proposal:
        values, indices = best_first(logits, self.num_classes)
        return Proposal(indices, values)


@dataclass(frozen=True, kw_only=True)
class Stingy(Policy):
    """The N largest logits. The others are withheld.

    Source: Ma et al., "Sparse Logits Suffice to Fail Knowledge Distillation", ICLR 2022 workshop.

    Args:
        n: N, 1..num_classes.
    """

    name: ClassVar[str] = "stingy"
    n: int

    @property
    def support(self) -> int:
        return self.n

    def propose(self, logits: Tensor) -> Proposal:
        values, indices = best_first(logits, self.n)
        return Proposal(indices, values)


@dataclass(frozen=True, kw_only=True)
class StingySmooth(Policy):
    """All classes: the N largest logits unchanged, the remaining mass spread evenly.

    Each other class gets log(sum of exp(hidden logits) / (K - N)). This is our own definition,
    because the paper's figure names a "stingy-smooth" without defining it.

    Args:
        n: N, the number of unchanged logits, 1..num_classes.
    """

    name: ClassVar[str] = "stingy_smooth"
    n: int

    @property
    def support(self) -> int:
        return self.num_classes

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if not is_integer(self.n) or not 1 <= self.n <= self.num_classes:
            yield f"expected n to be an integer 1..{self.num_classes}, got {self.n!r}"

    def propose(self, logits: Tensor) -> Proposal:
        kept, indices = best_first(logits, self.n)
        num_hidden = self.num_classes - self.n
        if num_hidden == 0:
            return Proposal(indices, kept)
        is_hidden = torch.ones_like(logits, dtype=torch.bool).scatter_(1, indices, False)
        # In index order, so that their order does not leak their values.
        hidden = is_hidden.nonzero()[:, 1].view(-1, num_hidden)
        # float64, because the sum must not depend on the layout of the batch.
        mass = logits.gather(1, hidden).double().logsumexp(dim=1, keepdim=True)
        share = (mass - math.log(num_hidden)).to(logits.dtype)
        return Proposal(
            torch.cat([indices, hidden], dim=1),
            torch.cat([kept, share.expand(-1, num_hidden)], dim=1),
        )


@dataclass(frozen=True, kw_only=True)
class Reversed(Policy):
    """All classes: the top-1 keeps its logit, and rank j >= 2 gets the logit of rank K + 2 - j.

    Source: the same paper's figure "reversed logits".
    """

    name: ClassVar[str] = "reversed"

    @property
    def support(self) -> int:
        return self.num_classes

    def propose(self, logits: Tensor) -> Proposal:
        values, indices = best_first(logits, self.num_classes)
        # The values stay in order. The classes of ranks 2..K are reversed.
        return Proposal(torch.cat([indices[:, :1], indices[:, 1:].flip(1)], dim=1), values)


@dataclass(frozen=True, kw_only=True)
class Label(Policy):
    """The top-1 index without a score: the floor of every policy that keeps the top-1."""

    name: ClassVar[str] = "label"
    scores: ScoreForm = ScoreForm.NONE

    @property
    def support(self) -> int:
        return 1

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.scores is not ScoreForm.NONE:
            yield f"label has no scores: expected scores=none, got {self.scores!s}"

    def propose(self, logits: Tensor) -> Proposal:
        values, indices = best_first(logits, 1)
        return Proposal(indices, values)


@dataclass(frozen=True, kw_only=True)
class RankedLabels(Policy):
    """The top-N indices, best first, with their ranks as the only scores.

    Args:
        n: N, 1..num_classes.
    """

    name: ClassVar[str] = "ranked_labels"
    n: int
    scores: ScoreForm = ScoreForm.RANK

    @property
    def support(self) -> int:
        return self.n

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.scores is not ScoreForm.RANK:
            yield f"ranked_labels has ranks only: expected scores=rank, got {self.scores!s}"

    def propose(self, logits: Tensor) -> Proposal:
        values, indices = best_first(logits, self.n)
        return Proposal(indices, values)


@dataclass(frozen=True, kw_only=True)
class Rounded(Policy):
    """All classes, with scores on a coarse grid. The option `decimals` sets the grid."""

    name: ClassVar[str] = "rounded"
    scores: ScoreForm = ScoreForm.PROB
    decimals: int = 2

    @property
    def support(self) -> int:
        return self.num_classes

    def propose(self, logits: Tensor) -> Proposal:
        values, indices = best_first(logits, self.num_classes)
        return Proposal(indices, values)
