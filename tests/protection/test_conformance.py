"""P9: every shipped policy passes the conformance kit, and every sabotaged one is caught."""

import itertools
import random
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from policy_strategies import build_shipped
from stingy_protection import (
    Policy,
    PolicyViolation,
    Proposal,
    best_first,
    check_policy,
    policy_names,
)

torch.set_num_threads(1)


@dataclass(frozen=True, kw_only=True)
class Honest(Policy):
    """A correct top-2 policy of a third party. Each sabotaged policy changes one thing of it."""

    name: ClassVar[str] = "honest"
    calls: ClassVar["itertools.count[int]"] = itertools.count()

    @property
    def support(self) -> int:
        return 2

    def propose(self, logits: Tensor) -> Proposal:
        values, indices = best_first(logits, 2)
        return Proposal(indices, values)


class Undecorated(Honest):
    pass


@dataclass(frozen=True, kw_only=True)
class Unhashable(Honest):
    weights: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class NotJson(Honest):
    weights: frozenset[int] = frozenset({1})


@dataclass(frozen=True, kw_only=True)
class Random(Honest):
    def propose(self, logits: Tensor) -> Proposal:
        return super().propose(logits + torch.randn_like(logits))


@dataclass(frozen=True, kw_only=True)
class RarelyRandom(Honest):
    def propose(self, logits: Tensor) -> Proposal:
        drawn = random.random()
        return super().propose(logits * 2 if drawn > 0.999_999 else logits)


@dataclass(frozen=True, kw_only=True)
class Stateful(Honest):
    def propose(self, logits: Tensor) -> Proposal:
        return super().propose(logits * (1 + 0.1 * (next(self.calls) % 7)))


@dataclass(frozen=True, kw_only=True)
class DependsOnNeighbours(Honest):
    def propose(self, logits: Tensor) -> Proposal:
        return super().propose(logits / (1 + logits.abs().amax()))


@dataclass(frozen=True, kw_only=True)
class DependsOnPlace(Honest):
    def propose(self, logits: Tensor) -> Proposal:
        place = torch.arange(1, logits.shape[0] + 1).unsqueeze(1)
        return super().propose(logits * place)


@dataclass(frozen=True, kw_only=True)
class DependsOnBatchSize(Honest):
    def propose(self, logits: Tensor) -> Proposal:
        return super().propose(logits / logits.shape[0])


@dataclass(frozen=True, kw_only=True)
class ReturnsAView(Honest):
    keeps_top1: ClassVar[bool] = False

    def propose(self, logits: Tensor) -> Proposal:
        return Proposal(torch.arange(2).repeat(logits.shape[0], 1), logits[:, :2])


@dataclass(frozen=True, kw_only=True)
class OneTooMany(Honest):
    def propose(self, logits: Tensor) -> Proposal:
        values, indices = best_first(logits, 3)
        return Proposal(indices, values)


@dataclass(frozen=True, kw_only=True)
class ChangesItsInput(Honest):
    def propose(self, logits: Tensor) -> Proposal:
        proposal = super().propose(logits)
        logits.zero_()
        return proposal


@dataclass(frozen=True, kw_only=True)
class MissesTheTop1(Honest):
    def propose(self, logits: Tensor) -> Proposal:
        return super().propose(-logits)


@dataclass(frozen=True, kw_only=True)
class BreaksTiesUpwards(Honest):
    def propose(self, logits: Tensor) -> Proposal:
        values, indices = best_first(logits.flip(1), 2)
        return Proposal(logits.shape[1] - 1 - indices, values)


@dataclass(frozen=True, kw_only=True)
class Raises(Honest):
    def propose(self, logits: Tensor) -> Proposal:
        raise RuntimeError(f"{logits}")


SABOTAGES = [
    (Undecorated, "dataclass"),
    (Unhashable, "hashable"),
    (NotJson, "JSON"),
    (Random, "same proposal"),
    (RarelyRandom, "random numbers"),
    (Stateful, "same proposal"),
    (DependsOnNeighbours, "for a row"),
    (DependsOnPlace, "any place"),
    (DependsOnBatchSize, "alone"),
    (ReturnsAView, "view"),
    (OneTooMany, "1..2 entries"),
    (ChangesItsInput, "changes them"),
    (MissesTheTop1, "top-1"),
    (BreaksTiesUpwards, "top-1"),
    (Raises, "the policy failed"),
]


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
@pytest.mark.parametrize("name", policy_names())
def test_P9_every_shipped_policy_conforms(name: str, num_classes: int) -> None:
    check_policy(build_shipped(name, num_classes))


def test_P9_an_honest_third_party_policy_conforms() -> None:
    check_policy(Honest(num_classes=10))
    check_policy(replace(Honest(num_classes=10), decimals=6))


@pytest.mark.parametrize(("sabotage", "fault"), SABOTAGES, ids=[s.__name__ for s, _ in SABOTAGES])
def test_P9_every_sabotaged_policy_is_caught(sabotage: type[Honest], fault: str) -> None:
    with pytest.raises(PolicyViolation, match=fault):
        check_policy(sabotage(num_classes=10))


def test_P9_all_broken_promises_are_listed_at_once() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Worst(ChangesItsInput):
        weights: list[float] = field(default_factory=list)

    with pytest.raises(PolicyViolation, match=r"hashable.*; .*changes them"):
        check_policy(Worst(num_classes=10))


def test_P9_an_object_that_is_not_a_policy_is_refused() -> None:
    with pytest.raises(PolicyViolation, match="instance of Policy"):
        check_policy("stingy")  # type: ignore[arg-type]


def test_P9_no_message_contains_a_logit() -> None:
    with pytest.raises(PolicyViolation) as caught:
        check_policy(Raises(num_classes=10))
    assert str(caught.value) == "the policy failed"
