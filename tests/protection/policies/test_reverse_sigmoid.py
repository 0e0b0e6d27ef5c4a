"""Reverse sigmoid: the published formula, and the top-1 stays first."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from policy_strategies import finite_logits
from stingy_protection import PolicyConfigError, ReverseSigmoid, sanitize

SHARES = (0.6, 0.3, 0.1)


def by_hand(y: float, beta: float, gamma: float) -> float:
    logit = math.log(y / (1 - y))
    return y - beta * (1 / (1 + math.exp(-gamma * logit)) - 0.5)


def test_scores_equal_those_of_equations_3_and_4() -> None:
    policy = ReverseSigmoid(num_classes=3, beta=0.5, gamma=0.3, decimals=6)
    answer = sanitize(policy, torch.tensor([SHARES]).log())
    raw = [by_hand(y, 0.5, 0.3) for y in SHARES]
    assert answer.indices.tolist() == [[0, 1, 2]]
    assert answer.scores is not None
    expected = [value / sum(raw) for value in raw]
    assert answer.scores[0].tolist() == pytest.approx(expected, abs=2e-6)


def test_the_top1_is_raised_where_another_class_would_be_first() -> None:
    shares = (0.51, 0.49)
    assert by_hand(0.51, 1.0, 1.0) == pytest.approx(by_hand(0.49, 1.0, 1.0))
    steep = ReverseSigmoid(num_classes=3, beta=1.0, gamma=0.9)
    answer = sanitize(steep, torch.tensor([[*shares, 1e-9]]).log())
    assert answer.indices[0, 0] == 0
    assert answer.scores is not None
    assert answer.scores[0, 0] == answer.scores.max()


@settings(max_examples=60)
@given(logits=finite_logits(), beta=st.floats(0.01, 1), gamma=st.floats(0.01, 1))
def test_the_top1_has_the_highest_score_for_any_options(
    logits: Tensor, beta: float, gamma: float
) -> None:
    policy = ReverseSigmoid(num_classes=logits.shape[1], beta=beta, gamma=gamma)
    answer = sanitize(policy, logits)
    assert answer.scores is not None
    assert torch.equal(answer.scores[:, 0], answer.scores.amax(dim=1))


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, float("nan")])
def test_options_outside_zero_to_one_are_faults(value: float) -> None:
    with pytest.raises(PolicyConfigError, match=r"beta.*gamma"):
        ReverseSigmoid(num_classes=3, beta=value, gamma=value)
