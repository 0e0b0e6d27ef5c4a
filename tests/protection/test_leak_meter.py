"""The leak meter: the bound is never below the true hidden mass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from policy_strategies import finite_logits, normal_logits
from stingy_protection import (
    Label,
    Open,
    RankedLabels,
    ScoreForm,
    Stingy,
    hidden_mass_bound,
    leak_bits,
    sanitize,
)

torch.set_num_threads(1)
SCORED = (ScoreForm.LOG_PROB, ScoreForm.PROB, ScoreForm.LOGIT)


def true_hidden_mass(logits: Tensor, n: int) -> Tensor:
    return logits.double().softmax(dim=1).sort(dim=1, descending=True).values[:, n:].sum(dim=1)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(2, 40),
    scale=st.sampled_from([0.001, 0.1, 1.0, 5.0, 50.0]),
    decimals=st.integers(0, 6),
    form=st.sampled_from(SCORED),
    data=st.data(),
)
def test_the_bound_holds_for_rounded_scores(
    seed: int, classes: int, scale: float, decimals: int, form: ScoreForm, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, classes))
    logits = normal_logits(16, classes, seed=seed, scale=scale)
    policy = Stingy(num_classes=classes, n=n, scores=form, decimals=decimals)
    bound = hidden_mass_bound(sanitize(policy, logits))
    assert bound.dtype is torch.float64
    assert bound.shape == (16,)
    assert (bound >= true_hidden_mass(logits, n) - 1e-12).all()
    assert (bound <= (classes - n) / classes + 1e-12).all()


@settings(max_examples=100)
@given(logits=finite_logits(), form=st.sampled_from(SCORED), data=st.data())
def test_the_bound_holds_for_ties_and_extremes(
    logits: Tensor, form: ScoreForm, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, logits.shape[1] - 1))
    policy = Stingy(num_classes=logits.shape[1], n=n, scores=form)
    bound = hidden_mass_bound(sanitize(policy, logits))
    assert (bound >= true_hidden_mass(logits, n) - 1e-12).all()


def test_the_bound_covers_kept_scores_that_were_rounded_up() -> None:
    # 3.51 rounds to 4 and 1.49 to 1. Every withheld logit is as large as possible.
    logits = torch.tensor([[3.51] + [1.49] * 9])
    answer = sanitize(Stingy(num_classes=10, n=2, scores=ScoreForm.LOGIT, decimals=0), logits)
    assert hidden_mass_bound(answer).item() >= true_hidden_mass(logits, 2).item()


@pytest.mark.parametrize("form", SCORED)
def test_the_bound_covers_scores_that_float32_rounds(form: ScoreForm) -> None:
    # The grid of 6 decimals is finer than float32 at these sizes, and the bound is tight.
    smallest = torch.linspace(-16, -8, 500).unsqueeze(1)
    logits = torch.cat([torch.zeros(500, 1), smallest.expand(-1, 999)], dim=1)
    policy = Stingy(num_classes=1000, n=2, scores=form, decimals=6)
    bound = hidden_mass_bound(sanitize(policy, logits))
    assert (bound >= true_hidden_mass(logits, 2) - 1e-12).all()


@pytest.mark.parametrize("form", SCORED)
def test_the_bound_on_a_fine_grid_equals_the_formula(form: ScoreForm) -> None:
    logits = torch.tensor([[3.0, 1.0, 0.5, 0.0, -1.0]])
    kept = logits[0, :2].double().exp()
    expected = 3 * kept[1] / (kept.sum() + 3 * kept[1])
    answer = sanitize(Stingy(num_classes=5, n=2, scores=form, decimals=6), logits)
    assert hidden_mass_bound(answer).item() == pytest.approx(float(expected), abs=1e-5)


def test_the_bound_is_zero_if_nothing_is_withheld() -> None:
    assert hidden_mass_bound(sanitize(Open(num_classes=5), normal_logits(3, 5))).tolist() == [0] * 3


def test_the_bound_without_scores_is_the_share_of_hidden_classes() -> None:
    logits = normal_logits(2, 10)
    label = sanitize(Label(num_classes=10), logits)
    assert hidden_mass_bound(label).tolist() == pytest.approx([0.9] * 2)
    ranked = sanitize(RankedLabels(num_classes=10, n=4), logits)
    assert hidden_mass_bound(ranked).tolist() == pytest.approx([0.6] * 2)


def test_a_coarser_grid_leaks_less() -> None:
    logits = normal_logits(64, 10)
    bounds = [
        hidden_mass_bound(sanitize(Stingy(num_classes=10, n=3, decimals=decimals), logits)).mean()
        for decimals in (4, 1, 0)
    ]
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[-1]


@pytest.mark.parametrize("form", list(ScoreForm))
def test_bits_are_the_logarithm_of_the_bound_and_add_up(form: ScoreForm) -> None:
    answer = sanitize(Stingy(num_classes=10, n=3, scores=form), normal_logits(4, 10))
    expected = -hidden_mass_bound(answer).log2().sum().item()
    assert leak_bits(answer) == pytest.approx(expected)
    assert sum(leak_bits(part) for part in answer.split([1, 3])) == pytest.approx(expected)


def test_an_answer_that_hides_nothing_counts_as_the_most_bits() -> None:
    answer = sanitize(Open(num_classes=5), normal_logits(3, 5))
    assert leak_bits(answer) == 3 * 32
    assert leak_bits(answer, most=8) == 3 * 8
