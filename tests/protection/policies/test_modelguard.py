"""ModelGuard-W for a batch, compared with a linear-programming solver per row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from policy_strategies import finite_logits, normal_logits
from stingy_protection import ModelGuardW, PolicyConfigError, sanitize
from stingy_protection.policies.modelguard import minimize_cost

torch.set_num_threads(1)


def sorted_shares(rows: int, classes: int, *, seed: int, scale: float) -> Tensor:
    logits = normal_logits(rows, classes, seed=seed, scale=scale).double()
    return logits.softmax(dim=1).sort(dim=1, descending=True).values


def solve(y: NDArray[np.float64], eps: float) -> float:
    """Solve the published program for the least cost, with unknowns y' and |y' - y|."""
    k = len(y)
    one, zero = np.eye(k), np.zeros(k)
    first_is_largest = np.hstack([one - one[0], np.zeros((k, k))])
    found = linprog(
        np.concatenate([np.log(y + 1e-6), zero]),
        A_ub=np.vstack(
            [
                np.hstack([one, -one]),
                np.hstack([-one, -one]),
                np.concatenate([zero, np.ones(k)]),
                first_is_largest,
            ]
        ),
        b_ub=np.concatenate([y, -y, [eps], zero]),
        A_eq=np.concatenate([np.ones(k), zero])[None],
        b_eq=[1.0],
        bounds=[(0, 1)] * (2 * k),
    )
    return float(found.fun)


@pytest.mark.parametrize("classes", [2, 3, 5, 8])
@pytest.mark.parametrize("eps", [0.05, 0.4, 1.0, 2.0])
def test_the_batch_solution_costs_what_the_linear_program_does(classes: int, eps: float) -> None:
    for seed, scale in enumerate((0.3, 1.0, 3.0, 10.0)):
        y = sorted_shares(4, classes, seed=seed, scale=scale)
        batch = minimize_cost(y, eps).numpy()
        for row, disturbed in zip(y.numpy(), batch, strict=True):
            assert np.log(row + 1e-6) @ disturbed == pytest.approx(solve(row, eps), abs=1e-6)


@settings(max_examples=40)
@given(logits=finite_logits(), eps=st.floats(0.01, 2))
def test_an_answer_is_within_the_budget_and_keeps_the_top1(logits: Tensor, eps: float) -> None:
    policy = ModelGuardW(num_classes=logits.shape[1], eps=eps, decimals=6)
    answer = sanitize(policy, logits)
    assert answer.scores is not None
    disturbed = torch.zeros_like(logits).scatter(1, answer.indices, answer.scores)
    assert torch.allclose(disturbed.sum(dim=1), torch.ones(len(logits)), atol=1e-4)
    moved = (disturbed - logits.softmax(dim=1)).abs().sum(dim=1)
    assert moved.max() <= eps + 1e-4
    assert (answer.scores[:, 0] >= answer.scores.amax(dim=1)).all()


def test_half_the_budget_goes_to_the_least_likely_class() -> None:
    policy = ModelGuardW(num_classes=3, eps=0.4)
    answer = sanitize(policy, torch.tensor([[0.9, 0.07, 0.03]]).log())
    assert answer.indices.tolist() == [[0, 2, 1]]
    assert answer.scores is not None
    assert answer.scores[0].tolist() == pytest.approx([0.7, 0.23, 0.07], abs=1e-3)


@pytest.mark.parametrize("eps", [0.0, -1.0, 2.1, float("nan")])
def test_a_budget_outside_zero_to_two_is_a_fault(eps: float) -> None:
    with pytest.raises(PolicyConfigError, match="eps"):
        ModelGuardW(num_classes=3, eps=eps)
