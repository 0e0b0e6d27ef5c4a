"""The losses against hand computations, with withheld classes (-inf)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stingy_attacker_eval.attacks.losses import (
    centred_l1,
    class_balance,
    consistency,
    dafl_generator_loss,
    disagreement,
    disguide_generator_loss,
    fill_constant,
    kd_loss,
    plackett_luce,
    subset_kl,
)

INF = math.inf


def logits(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def test_kd_matches_a_hand_computation() -> None:
    # At tau 2: the teacher's [2 ln 3, 0] is [3/4, 1/4], the student's [0, 0] is [1/2, 1/2].
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    expected = 0.9 * 4 * divergence + 0.1 * math.log(2)
    student, teacher = logits([0.0, 0.0]), logits([2 * math.log(3), 0.0])
    found = kd_loss(student, teacher, torch.tensor([1]), tau=2.0, alpha=0.9)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_kd_with_withheld_classes_matches_a_hand_computation() -> None:
    # The support's two equal logits are [1/2, 1/2, 0]; the student has [1/3, 1/3, 1/3].
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


def test_kd_without_labels_below_alpha_one_is_refused() -> None:
    with pytest.raises(ValueError, match="expected labels"):
        kd_loss(logits([0.0, 0.0]), logits([1.0, 0.0]), None, tau=1.0, alpha=0.9)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), kept=st.integers(1, 6), tau=st.sampled_from([1.0, 4.0, 20.0]))
def test_any_support_gives_a_finite_loss_and_exact_gradient(
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


def test_constant_per_row_does_not_change_the_loss() -> None:
    student, teacher = logits([0.3, -0.2, 1.0]), logits([3.0, 1.0, -INF])
    one = kd_loss(student, teacher, None, tau=4.0, alpha=1.0)
    other = kd_loss(student, teacher - 7.5, None, tau=4.0, alpha=1.0)
    torch.testing.assert_close(one, other)


def test_subset_kl_matches_a_hand_computation() -> None:
    # On the support at tau 2: teacher [3/4, 1/4], student [1/2, 1/2]; the third logit is ignored.
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    teacher = logits([2 * math.log(3), 0.0, -INF])
    for third in (-3.0, 0.0, 50.0):
        student = logits([1.0, 1.0, third]).requires_grad_()
        found = subset_kl(student, teacher, tau=2.0)
        assert found.item() == pytest.approx(4 * divergence, rel=1e-5)
        (gradient,) = torch.autograd.grad(found, student)
        torch.testing.assert_close(gradient, logits([2 * -0.25, 2 * 0.25, 0.0]))


def test_subset_kl_on_a_full_support_is_kd_at_alpha_one() -> None:
    student, teacher = logits([0.3, -0.2, 1.0]), logits([3.0, 1.0, -4.0])
    torch.testing.assert_close(
        subset_kl(student, teacher, tau=4.0), kd_loss(student, teacher, None, tau=4.0, alpha=1.0)
    )


def test_plackett_luce_matches_a_hand_computation() -> None:
    # Weights 1, 2, 4: first 4 of 7, then 2 of the 3 that are left.
    student = logits([0.0, math.log(2), math.log(4)])
    found = plackett_luce(student, torch.tensor([[2, 1]]))
    assert found.item() == pytest.approx(-math.log(4 / 7) - math.log(2 / 3), rel=1e-6)


def test_plackett_luce_of_one_class_is_the_cross_entropy() -> None:
    student, top1 = logits([0.3, -1.0, 2.0], [1.0, 0.0, 0.5]), torch.tensor([1, 0])
    torch.testing.assert_close(
        plackett_luce(student, top1[:, None]), torch.nn.functional.cross_entropy(student, top1)
    )


def test_plackett_luce_costs_nothing_for_the_last_place() -> None:
    student = logits([0.0, 0.0])
    found = plackett_luce(student, torch.tensor([[1, 0]]))
    assert found.item() == pytest.approx(math.log(2), rel=1e-6)


def test_plackett_luce_ties_share_one_normaliser() -> None:
    # Weights 1, 2, 4, 8: first 8 of 15; then 2 and 4, tied, each of the 7 that are left.
    student = logits([0.0, math.log(2), math.log(4), math.log(8)])
    tied = torch.tensor([[0, 1, 1]])
    expected = -math.log(8 / 15) - math.log(2 / 7) - math.log(4 / 7)
    for order in ([3, 1, 2], [3, 2, 1]):  # in either order of the list
        found = plackett_luce(student, torch.tensor([order]), tied)
        assert found.item() == pytest.approx(expected, rel=1e-6)


def test_plackett_luce_skips_a_tie_past_the_places_read() -> None:
    student = logits([0.0, math.log(2), math.log(4), math.log(8)])
    order, tied = torch.tensor([[3, 1, 2]]), torch.tensor([[0, 1, 1]])
    found = plackett_luce(student, order, tied, n=2)
    assert found.item() == pytest.approx(-math.log(8 / 15), rel=1e-6)
    assert torch.equal(
        plackett_luce(student, order, tied, n=3), plackett_luce(student, order, tied)
    )


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), kept=st.integers(1, 6), n=st.integers(1, 6))
def test_plackett_luce_without_ties_uses_the_listed_order(seed: int, kept: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(5, 6, generator=generator)
    order = torch.randn(5, 6, generator=generator).topk(kept, dim=1).indices
    places = torch.arange(kept).repeat(5, 1)
    first = order[:, :n]
    assert torch.equal(plackett_luce(student, order, places, n=n), plackett_luce(student, first))


def test_withheld_class_is_filled_below_the_smallest_score() -> None:
    found = fill_constant(logits([5.0, 2.0, -INF], [-INF, -INF, 1.0], [1.0, 2.0, 3.0]), delta=1.5)
    assert found.tolist() == [[5.0, 2.0, 0.5], [-0.5, -0.5, 1.0], [1.0, 2.0, 3.0]]


def test_centred_l1_by_hand_ignores_the_teachers_constant() -> None:
    # The teacher less its mean: [3, -3].
    assert centred_l1(logits([2.0, 0.0]), logits([6.0, 0.0])).tolist() == [2.0]
    assert centred_l1(logits([2.0, 0.0]), logits([9.0, 3.0])).tolist() == [2.0]


def test_disagreement_matches_a_hand_computation() -> None:
    # [3/4, 1/4] and [1/4, 3/4]: each class's unbiased deviation is (1/2) / sqrt(2).
    first, second = logits([math.log(3), 0.0]), logits([0.0, math.log(3)])
    assert disagreement(first, second).item() == pytest.approx(0.5 / math.sqrt(2), rel=1e-6)
    assert disagreement(first, first).item() == 0.0


def test_disagreement_is_a_mean_over_rows_and_classes() -> None:
    first, second = torch.randn(5, 7), torch.randn(5, 7)
    both = torch.stack([first, second]).softmax(dim=2)
    assert disagreement(first, second).item() == pytest.approx(both.std(dim=0).mean().item())


def test_disguide_generator_loss_matches_a_hand_computation() -> None:
    # The vote is the mean of the two softmaxes: an even mix of the rows above.
    first, second = logits([math.log(3), 0.0]), logits([0.0, math.log(3)])
    loss = disguide_generator_loss(first, second, balance=0.2)
    assert loss.item() == pytest.approx(-0.2 * math.log(2) - 0.5 / math.sqrt(2), rel=1e-6)
    # [9/10, 1/10] and [1/2, 1/2] give [7/10, 3/10], not the softmax of their summed logits.
    sure, unsure = logits([math.log(9), 0.0]), logits([0.0, 0.0])
    vote = 0.7 * math.log(0.7) + 0.3 * math.log(0.3)
    expected = vote - 0.4 / math.sqrt(2)
    loss = disguide_generator_loss(sure, unsure, balance=1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_class_balance_is_lowest_at_an_even_mix_and_finite() -> None:
    even = class_balance(logits([50.0, 0.0], [0.0, 50.0]))
    assert even.item() == pytest.approx(-math.log(2), rel=1e-5)
    withheld = logits([1.0, 0.0, -INF], [0.0, 0.0, -INF]).requires_grad_()
    (gradient,) = torch.autograd.grad(class_balance(withheld), withheld)
    assert gradient.isfinite().all()


def test_dafl_generator_loss_matches_a_hand_computation() -> None:
    # Two rows [3/4, 1/4, 0]: certain = -ln 3/4; mean [3/4, 1/4]; |features| average 2. The
    # published code has cross-entropy in nats and the balance to base 10; its weights fit these.
    teacher = logits([math.log(3), 0.0, -INF], [math.log(3), 0.0, -INF])
    features = logits([1.0, -3.0], [2.0, 2.0])
    expected = (
        0.5 * -math.log(0.75)
        + 7.0 * (0.75 * math.log10(0.75) + 0.25 * math.log10(0.25))
        - 0.1 * 2.0
    )
    found = dafl_generator_loss(teacher, features, one_hot=0.5, balance=7.0, activation=0.1)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_consistency_counts_sure_rows_and_the_strong_view_only() -> None:
    weak = logits([math.log(9), 0.0], [0.0, 0.0]).requires_grad_()  # 0.9 sure, and 0.5
    strong = logits([0.0, 0.0], [5.0, 0.0]).requires_grad_()
    found = consistency(weak, strong, threshold=0.8)
    assert found.item() == pytest.approx(math.log(2) / 2, rel=1e-6)
    found.backward()  # type: ignore[no-untyped-call]
    assert weak.grad is None
    assert strong.grad is not None
    assert strong.grad[1].tolist() == [0.0, 0.0]


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), kept=st.integers(1, 6))
def test_withheld_classes_keep_every_loss_finite(seed: int, kept: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = (torch.randn(5, 6, generator=generator) * 9).requires_grad_()
    values, indices = (torch.randn(5, 6, generator=generator) * 9).topk(kept, dim=1)
    teacher = torch.full((5, 6), -INF).scatter(1, indices, values)
    for loss in (
        subset_kl(student, teacher, tau=4.0),
        plackett_luce(student, indices),
        centred_l1(student, fill_constant(teacher, delta=1.0)).mean(),
    ):
        assert loss.isfinite()
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.isfinite().all()
