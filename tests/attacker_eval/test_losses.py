"""The KD loss against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stingy_attacker_eval.attacks.losses import kd_loss

INF = math.inf


def logits(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def test_kd_against_a_hand_computation() -> None:
    # At tau 2: the teacher's [2 ln 3, 0] is [3/4, 1/4], the student's [0, 0] is [1/2, 1/2].
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    expected = 0.9 * 4 * divergence + 0.1 * math.log(2)
    student, teacher = logits([0.0, 0.0]), logits([2 * math.log(3), 0.0])
    found = kd_loss(student, teacher, torch.tensor([1]), tau=2.0, alpha=0.9)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_kd_with_withheld_classes_against_a_hand_computation() -> None:
    # The support's two equal logits are [1/2, 1/2, 0]; the student says [1/3, 1/3, 1/3].
    found = kd_loss(logits([0.0] * 3), logits([5.0, 5.0, -INF]), None, tau=20.0, alpha=1.0)
    assert found.item() == pytest.approx(400 * math.log(1.5), rel=1e-5)


def test_kd_is_the_mean_over_the_batch() -> None:
    student = logits([0.0, 1.0], [2.0, -1.0])
    teacher = logits([1.0, -INF], [0.5, 0.0])
    labels = torch.tensor([0, 1])
    rows = [
        kd_loss(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1], tau=4.0, alpha=0.5)
        for i in range(2)
    ]
    whole = kd_loss(student, teacher, labels, tau=4.0, alpha=0.5)
    assert whole.item() == pytest.approx((rows[0].item() + rows[1].item()) / 2, rel=1e-6)


def test_labels_are_demanded_below_alpha_one() -> None:
    with pytest.raises(ValueError, match="expected labels"):
        kd_loss(logits([0.0, 0.0]), logits([1.0, 0.0]), None, tau=1.0, alpha=0.9)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), kept=st.integers(1, 6), tau=st.sampled_from([1.0, 4.0, 20.0]))
def test_any_support_gives_a_finite_loss_and_the_gradient_of_the_formula(
    seed: int, kept: int, tau: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = (torch.randn(5, 6, generator=generator) * 9).requires_grad_()
    values, indices = (torch.randn(5, 6, generator=generator) * 9).topk(kept, dim=1)
    teacher = torch.full((5, 6), -INF).scatter(1, indices, values)
    loss = kd_loss(student, teacher, None, tau=tau, alpha=1.0)
    (gradient,) = torch.autograd.grad(loss, student)
    expected = tau * (torch.softmax(student / tau, 1) - torch.softmax(teacher / tau, 1)) / 5
    assert loss.isfinite()
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-3, atol=1e-4)


def test_a_constant_a_row_changes_nothing_so_log_prob_and_logit_teach_the_same() -> None:
    student, teacher = logits([0.3, -0.2, 1.0]), logits([3.0, 1.0, -INF])
    one = kd_loss(student, teacher, None, tau=4.0, alpha=1.0)
    other = kd_loss(student, teacher - 7.5, None, tau=4.0, alpha=1.0)
    torch.testing.assert_close(one, other)
