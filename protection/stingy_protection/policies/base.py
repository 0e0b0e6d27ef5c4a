"""What a policy is. Invariant: a policy is a value, and its answer depends on the row alone."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor

from stingy_protection.answers import ScoreForm
from stingy_protection.errors import PolicyConfigError, PolicyViolation
from stingy_protection.ordering import best_of

MAX_DECIMALS = 6


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a policy would let out; the gate decides whether it may.

    Entries come best first, the top-1 at the head, ties to the lower index.

    Args:
        indices: int64 `[batch, n]` with n <= the policy's support, unique in each row.
        logits: floating `[batch, n]`, the policy's version of the logits on that support.
    """

    indices: Tensor = field(repr=False)
    logits: Tensor = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """What may leave the model, as a frozen dataclass with one pure method, `propose`.

    A policy sees logits and nothing else: no request, key, clock or random source. Options are
    dataclass fields, so equality, hash and fingerprint come from them.

    Args:
        num_classes: how many classes the model knows, at least 2.
        scores: the form in which scores are told.
        decimals: the grid: scores are rounded to this many decimal places, 0..6.

    Raises:
        PolicyConfigError: the options do not make a policy; every fault is listed.
    """

    name: ClassVar[str]
    keeps_top1: ClassVar[bool] = True

    num_classes: int
    scores: ScoreForm = ScoreForm.LOG_PROB
    decimals: int = 3

    def __post_init__(self) -> None:
        faults = tuple(self.faults())
        if faults:
            raise PolicyConfigError(faults)

    @property
    @abstractmethod
    def support(self) -> int:
        """N: how many classes leave at most, 1..num_classes."""

    @property
    def hides_nothing(self) -> bool:
        """Whether every logit leaves; such a policy is served by permission only."""
        return False

    @abstractmethod
    def propose(self, logits: Tensor) -> Proposal:
        """Propose what leaves for float32 logits `[batch, classes]`, each row on its own."""

    def faults(self) -> Iterator[str]:
        """What is wrong with the options. A subclass adds its own to `super().faults()`."""
        if not is_integer(self.num_classes) or self.num_classes < 2:
            yield f"expected num_classes to be an integer >= 2, got {self.num_classes!r}"
        elif not is_integer(self.support) or not 1 <= self.support <= self.num_classes:
            yield f"expected a support of 1..{self.num_classes} classes, got {self.support!r}"
        if not is_integer(self.decimals) or not 0 <= self.decimals <= MAX_DECIMALS:
            yield f"expected decimals to be an integer 0..{MAX_DECIMALS}, got {self.decimals!r}"
        if not isinstance(self.scores, ScoreForm):
            known = ", ".join(ScoreForm)
            yield f"expected scores to be a ScoreForm ({known}), got {self.scores!r}"

    def options(self) -> dict[str, object]:
        """The resolved options, fit for JSON."""
        return {option.name: getattr(self, option.name) for option in fields(self)}

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits that change with the name or any option."""
        canonical = json.dumps(
            {"name": self.name, "options": self.options()}, sort_keys=True, separators=(",", ":")
        )
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def describe(self) -> str:
        """One line for people, such as "stingy: top 2 of 10 classes, log_prob at 3 decimals"."""
        many = "all" if self.support == self.num_classes else f"top {self.support} of"
        if self.scores is ScoreForm.NONE:
            told = "no scores"
        elif self.scores is ScoreForm.RANK:
            told = "ranks only"
        else:
            told = f"{self.scores} at {self.decimals} decimals"
        return f"{self.name}: {many} {self.num_classes} classes, {told}"


@dataclass(frozen=True, kw_only=True)
class NoisyPolicy(Policy):
    """A policy whose answer also depends on noise, which is handed in and never drawn.

    The engine derives the noise from the input's pixels (`keyed_noise`), so that an input has one
    answer: asked again, alone or in a batch, nothing averages out. A policy still sees no pixels.
    """

    @abstractmethod
    def propose_with(self, logits: Tensor, noise: Tensor) -> Proposal:
        """As `propose`, with standard normal noise float32 `[batch, classes]`."""

    @final
    def propose(self, logits: Tensor) -> Proposal:
        """Without noise nothing leaves: the gate calls `propose_with`."""
        raise PolicyViolation(f"expected noise for the policy {self.name}, got none")


def is_integer(value: object) -> bool:
    """True for an int that is not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def best_first(logits: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n largest of each row, ties to the lower index, exactly.

    `torch.topk` leaves the order of ties open, so one more entry is asked for: where no two
    neighbours are equal, the choice and its order are unique; the others are sorted stably. On
    the CPU numpy does it instead, which is faster.

    Args:
        logits: finite, floating `[batch, classes]`.
        n: 1..classes.

    Returns:
        values `[batch, n]` and indices int64 `[batch, n]`.
    """
    if torch.compiler.is_exporting():  # into a graph, which has no branches
        values, indices = logits.sort(dim=1, descending=True, stable=True)
        return values[:, :n], indices[:, :n]
    if logits.is_cpu and logits.dtype is torch.float32:
        best, places = best_of(logits.numpy(), n)
        return torch.from_numpy(best), torch.from_numpy(places)
    values, indices = torch.topk(logits, min(n + 1, logits.shape[1]), dim=1)
    tied = (values[:, 1:] == values[:, :-1]).any(dim=1)
    if tied.any():
        ordered = logits[tied].sort(dim=1, descending=True, stable=True)
        values[tied] = ordered.values[:, : values.shape[1]]
        indices[tied] = ordered.indices[:, : indices.shape[1]]
    return values[:, :n], indices[:, :n]


def top1_first(values: Tensor, logits: Tensor, n: int) -> Proposal:
    """The n best of disturbed values, after the undisturbed top-1.

    Where another value is above the top-1's, the top-1 is lifted to it.

    Args:
        values: finite, floating `[batch, classes]`.
        logits: what the top-1 is read from, finite, floating `[batch, classes]`.
        n: 1..classes.
    """
    _, top1 = best_first(logits, 1)
    lifted = values.scatter(1, top1, values.amax(dim=1, keepdim=True))
    _, indices = best_first(lifted.scatter(1, top1, torch.inf), n)
    return Proposal(indices, lifted.gather(1, indices))
