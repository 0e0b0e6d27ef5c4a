"""Openness: policies from whose answers whole rows can be recovered, and policies that hide."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from policy_strategies import build_shipped, normal_logits
from stingy_protection import (
    Policy,
    PolicyViolation,
    Proposal,
    ReverseSigmoid,
    ScoreForm,
    best_first,
    build_policy,
    hides_nothing,
    keyed_noise,
    parse_policy,
    recovery_error,
    sanitize,
)
from stingy_protection.gate.openness import TOLERANCE


def build(text: str, num_classes: int = 10) -> Policy:
    name, options = parse_policy(text)
    return build_policy(name, num_classes=num_classes, **options)


OPEN = [
    "open",
    "open:decimals=0",
    "stingy:ratio=1",
    "stingy:ratio=1,scores=prob,decimals=6",
    "stingy:ratio=0.99",
    "stingy:ratio=0.99,scores=logit,decimals=1",
    "stingy_smooth:ratio=0.99",
    "stingy_smooth:ratio=0.99,scores=logit,decimals=6",
    "reversed",
    "reversed:scores=logit,decimals=6",
    "reversed:scores=prob,decimals=6",
    "rounded:scores=logit,decimals=6",
    "rounded:scores=log_prob,decimals=2",
    "rounded:decimals=6",
    "keyed_noise:ratio=1,sigma=1e-9",
    "keyed_noise:ratio=1,sigma=1e-9,scores=logit,decimals=6",
    "keyed_noise:ratio=1,sigma=0.1",
    "keyed_noise:ratio=1,sigma=0.01,scores=prob,decimals=6",
    "modelguard_w:eps=1e-9,scores=log_prob",
    "modelguard_w:eps=1e-9,decimals=6",
    "reverse_sigmoid:beta=1e-9,scores=log_prob",
    "reverse_sigmoid:beta=1e-9,decimals=6",
]


@pytest.mark.parametrize("text", OPEN)
@pytest.mark.parametrize("num_classes", [10, 100])
def test_P10_policy_that_reveals_rows_is_open(text: str, num_classes: int) -> None:
    # In exact arithmetic, 0.99 of 10 is 9 classes.
    assert hides_nothing(build(text, num_classes))


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_P10_scores_of_all_of_a_few_classes_are_open(num_classes: int) -> None:
    assert hides_nothing(build(f"stingy:n={num_classes}", num_classes))
    assert not hides_nothing(build("stingy:n=1,scores=logit", num_classes))


@pytest.mark.parametrize(
    "text",
    [
        *("stingy", "stingy:ratio=0.5", "stingy:ratio=0.5,scores=logit,decimals=6"),
        *("stingy:ratio=0.8", "stingy:ratio=1,scores=rank", "stingy:ratio=1,scores=none"),
        *("stingy_smooth", "stingy_smooth:ratio=0.5", "label"),
        *("ranked_labels", "ranked_labels:ratio=1", "ranked_buckets", "ranked_buckets:buckets=100"),
        *("rounded", "rounded:decimals=0", "rounded:decimals=1"),
        *("keyed_noise", "keyed_noise:ratio=1", "keyed_noise:ratio=1,sigma=0.5,decimals=6"),
        "modelguard_w",
    ],
)
@pytest.mark.parametrize("num_classes", [10, 100])
def test_P10_policy_that_hides_is_not_open(text: str, num_classes: int) -> None:
    assert not hides_nothing(build(text, num_classes))


def test_P10_class_prototype_is_not_open() -> None:
    assert not hides_nothing(build_shipped("class_prototype", 10))


@dataclass(frozen=True, kw_only=True)
class Scrambled(Policy):
    """All classes, with scores that can be undone, or that name no class."""

    name: ClassVar[str] = "scrambled"
    keeps_top1: ClassVar[bool] = False
    scores: ScoreForm = ScoreForm.LOGIT
    way: str = "permuted"

    @property
    def support(self) -> int:
        return self.num_classes

    def propose(self, logits: Tensor) -> Proposal:
        places = torch.arange(self.num_classes)
        ways = {
            "permuted": lambda: logits.flip(1),
            "negative": lambda: -2 * logits + 7,
            "bent": lambda: logits.sign() * logits.abs().sqrt(),
            "mixed": lambda: (
                logits @ (torch.eye(self.num_classes) + 0.5 * (places[:, None] > places))
            ),
            "coarse": lambda: (logits * 10).round() / 10,
            "mean": lambda: logits.mean(dim=1, keepdim=True).expand_as(logits) + places,
            "constant": lambda: torch.zeros_like(logits),
        }
        values, order = best_first(ways[self.way]().float(), self.num_classes)
        return Proposal(order, values)


@pytest.mark.parametrize("num_classes", [3, 10, 100])
@pytest.mark.parametrize(
    ("way", "is_open"),
    [
        *(("permuted", True), ("negative", True), ("bent", True), ("mixed", True)),
        *(("coarse", True), ("mean", False), ("constant", False)),
    ],
)
def test_P10_scores_that_can_be_unscrambled_are_open(
    way: str, is_open: bool, num_classes: int
) -> None:
    assert hides_nothing(Scrambled(num_classes=num_classes, way=way)) is is_open


@dataclass(frozen=True, kw_only=True)
class Failing(Scrambled):
    """A policy that fails on every row."""

    name: ClassVar[str] = "failing"

    def propose(self, logits: Tensor) -> Proposal:
        raise RuntimeError(str(logits))


def test_P10_policy_that_fails_has_no_openness() -> None:
    with pytest.raises(PolicyViolation, match="the policy failed"):
        hides_nothing(Failing(num_classes=10))


def recovered_error(logits: Tensor, recovered: Tensor) -> float:
    """Compute the standard error of a logit relative to the top-1's, in spreads of its row."""
    top1 = logits.argmax(dim=1, keepdim=True)
    error = (recovered - recovered.gather(1, top1)) - (logits - logits.gather(1, top1))
    others = torch.ones_like(logits, dtype=torch.bool).scatter_(1, top1, False)
    return float((error / logits.std(dim=1, keepdim=True))[others].square().mean().sqrt())


def answers_by_class(policy: Policy, logits: Tensor, noise: Tensor | None = None) -> Tensor:
    answer = sanitize(policy, logits, noise=noise)
    assert answer.scores is not None
    return torch.empty_like(logits).scatter_(1, answer.indices, answer.scores)


@pytest.mark.parametrize("text", ["open:decimals=0", "rounded:scores=log_prob,decimals=1"])
def test_P10_measured_error_is_that_of_reading_the_scores(text: str) -> None:
    policy, logits = build(text, 100), normal_logits(200, 100, scale=4.0)
    error = recovered_error(logits, answers_by_class(policy, logits))
    assert recovery_error(policy) == pytest.approx(error, rel=0.5)


def test_P10_measured_error_of_noise_is_the_noise() -> None:
    policy, logits = build("keyed_noise:ratio=1,scores=logit", 100), normal_logits(50, 100, scale=4)
    noise = keyed_noise(bytes(16), torch.arange(150).byte().view(50, 1, 1, 3), 100)
    error = recovered_error(logits, answers_by_class(policy, logits, noise))
    assert recovery_error(policy) == pytest.approx(error, rel=0.5)


def test_P10_reverse_sigmoid_is_open_as_its_inversion_shows() -> None:
    policy = ReverseSigmoid(num_classes=10)
    logits = normal_logits(200, 10, scale=0.7)
    scores = answers_by_class(policy, logits).double().numpy()
    # Below this branch the map falls again, so such small probabilities would be ambiguous.
    log_y = np.linspace(np.log(0.0075), -1e-6, 200_001)
    logit_y = log_y - np.log(-np.expm1(log_y))
    bent = np.exp(log_y) - policy.beta * (1 / (1 + np.exp(-policy.gamma * logit_y)) - 0.5)
    low, high = np.full((200, 1), 0.1), np.full((200, 1), 10.0)
    for _ in range(60):  # the sum that renormalisation divided by makes the probabilities sum to 1
        total = (low + high) / 2
        below = np.exp(np.interp(scores * total, bent, log_y)).sum(axis=1, keepdims=True) < 1
        low, high = np.where(below, total, low), np.where(below, high, total)
    recovered = torch.from_numpy(np.interp(scores * low, bent, log_y)).float()
    assert recovered_error(logits, recovered) < TOLERANCE
    assert hides_nothing(policy)


def test_P10_measure_is_the_same_each_time() -> None:
    policy = build("rounded:decimals=3")
    first = recovery_error(policy)
    recovery_error.cache_clear()
    torch.manual_seed(5)
    assert recovery_error(policy) == first
