"""The base of all policies. Invariant: a policy is a value, and rows do not affect each other."""

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
from stingy_protection.ordering import select_largest

MAX_DECIMALS = 6


@dataclass(frozen=True, eq=False)
class Proposal:
    """The answer that a policy proposes. The gate decides whether it leaves.

    Entries are best first, the top-1 at the head, ties to the lower index.

    Args:
        indices: int64 `[batch, n]` with n <= the policy's support, unique in each row.
        logits: floating `[batch, n]`, the policy's version of the logits on that support.
    """

    indices: Tensor = field(repr=False)
    logits: Tensor = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """A rule for what may leave a model: a frozen dataclass with one pure method, `propose`.

    A policy gets logits and nothing else: no request, key, clock or random source. Its options are
    dataclass fields, so equality, hash and fingerprint depend on them.

    Args:
        num_classes: K, the number of the model's classes, at least 2.
        scores: the form of the scores.
        decimals: the grid. Scores are rounded to this many decimal places, 0..6.

    Raises:
        PolicyConfigError: if an option is faulty. It lists every fault.
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
        """N, the largest number of classes that leave, 1..num_classes."""

    @abstractmethod
    def propose(self, logits: Tensor) -> Proposal:
        """Propose an answer for each row, independently of the other rows.

        Args:
            logits: float32 `[batch, classes]`.
        """

    def faults(self) -> Iterator[str]:
        """Yield every fault of the options. A subclass adds its own to `super().faults()`."""
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
        """Return the resolved options, in a form that JSON can represent."""
        return {option.name: getattr(self, option.name) for option in fields(self)}

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits that change with the name and with every option."""
        canonical = json.dumps(
            {"name": self.name, "options": self.options()}, sort_keys=True, separators=(",", ":")
        )
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def describe(self) -> str:
        """Describe it in a line such as "stingy: top 2 of 10 classes, log_prob at 3 decimals"."""
        answer = describe_answer(
            support=self.support,
            num_classes=self.num_classes,
            scores=self.scores,
            decimals=self.decimals,
        )
        return f"{self.name}: {answer}"


@dataclass(frozen=True, kw_only=True)
class NoisyPolicy(Policy):
    """A policy whose answer also depends on noise. It receives the noise and never draws any.

    The engine derives the noise from the input's pixels (`keyed_noise`), so every query of an
    input gets the same answer, alone or in a batch. An attacker cannot average the noise out. The
    policy itself still gets no pixels.
    """

    @abstractmethod
    def propose_with(self, logits: Tensor, noise: Tensor) -> Proposal:
        """Propose an answer for each row, as `Policy.propose` does, with noise.

        Args:
            logits: float32 `[batch, classes]`.
            noise: standard normal, float32 `[batch, classes]`.
        """

    @final
    def propose(self, logits: Tensor) -> Proposal:
        """Refuse, because the gate calls `propose_with` for a noisy policy.

        Raises:
            PolicyViolation: always, so that nothing leaves without noise.
        """
        raise PolicyViolation(f"expected noise for the policy {self.name}, got none")


def describe_answer(*, support: int, num_classes: int, scores: ScoreForm, decimals: int) -> str:
    """Describe an answer in words, such as "top 2 of 10 classes, log_prob at 3 decimals".

    Args:
        support: N.
        num_classes: K.
        scores: the form of the scores.
        decimals: the grid of the scores.
    """
    number = "all" if support == num_classes else f"top {support} of"
    if scores is ScoreForm.NONE:
        described = "no scores"
    elif scores is ScoreForm.RANK:
        described = "ranks only"
    else:
        described = f"{scores} at {decimals} decimals"
    return f"{number} {num_classes} classes, {described}"


def is_integer(value: object) -> bool:
    """Check that a value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def best_first(logits: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Select exactly the n largest logits of each row, ties to the lower index.

    `torch.topk` does not define the order of ties, so n + 1 entries are requested. If no two
    neighbours are equal, the selection and its order are unique. The other rows are sorted stably.
    On the CPU, numpy does it instead, because it is faster.

    Args:
        logits: finite, floating `[batch, classes]`.
        n: 1..classes.

    Returns:
        values `[batch, n]` and indices int64 `[batch, n]`.
    """
    if torch.compiler.is_exporting():  # a graph has no branches
        values, indices = logits.sort(dim=1, descending=True, stable=True)
        return values[:, :n], indices[:, :n]
    if logits.is_cpu and logits.dtype is torch.float32:
        largest, places = select_largest(logits.numpy(), n)
        return torch.from_numpy(largest), torch.from_numpy(places)
    values, indices = torch.topk(logits, min(n + 1, logits.shape[1]), dim=1)
    tied = (values[:, 1:] == values[:, :-1]).any(dim=1)
    if tied.any():
        falling = logits[tied].sort(dim=1, descending=True, stable=True)
        values[tied] = falling.values[:, : values.shape[1]]
        indices[tied] = falling.indices[:, : indices.shape[1]]
    return values[:, :n], indices[:, :n]


def top1_first(values: Tensor, logits: Tensor, n: int) -> Proposal:
    """Propose the n largest disturbed values, with the undisturbed top-1 first.

    If another value is above the top-1's, the top-1 is raised to it.

    Args:
        values: the disturbed logits, finite, floating `[batch, classes]`.
        logits: the undisturbed logits, finite, floating `[batch, classes]`.
        n: 1..classes.
    """
    _, top1 = best_first(logits, 1)
    lifted = values.scatter(1, top1, values.amax(dim=1, keepdim=True))
    _, indices = best_first(lifted.scatter(1, top1, torch.inf), n)
    return Proposal(indices, lifted.gather(1, indices))
