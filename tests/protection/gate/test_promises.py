"""Answers of another gate are accepted only if they keep this policy's promises."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_strategies import build_shipped, finite_logits, make_noise, normal_logits
from stingy_protection import PolicyViolation, ScoreForm, Stingy, policy_names, sanitize
from stingy_protection.gate.promises import verify_answer
from stingy_protection.ordering import Floats32, Ints

POLICY = Stingy(num_classes=6, n=3)
INDICES = np.array([[4, 0, 2], [3, 1, 5]])
LOG_PROBS = np.array([[-0.128, -2.4, -3.513], [-1.098, -1.099, -1.099]], np.float32)
PROBS = np.array([[0.9, 0.07, 0.03], [0.4, 0.3, 0.3]], np.float32)


def arrays(*, form: ScoreForm) -> tuple[Ints, Floats32]:
    return INDICES.copy(), (PROBS if form is ScoreForm.PROB else LOG_PROBS).copy()


@given(
    logits=finite_logits(),
    name=st.sampled_from(policy_names()),
    form=st.sampled_from(ScoreForm),
    decimals=st.integers(0, 6),
)
@settings(max_examples=200)
def test_every_answer_of_the_gate_is_accepted_unchanged(
    logits: torch.Tensor, name: str, form: ScoreForm, decimals: int
) -> None:
    policy = build_shipped(name, logits.shape[1])
    if policy.scores not in (ScoreForm.RANK, ScoreForm.NONE):
        policy = dataclasses.replace(policy, scores=form, decimals=decimals)
    answer = sanitize(policy, logits, noise=make_noise(policy, logits))
    scores = None if answer.scores is None else answer.scores.numpy()
    verified = verify_answer(policy, answer.indices.numpy(), scores)
    assert torch.equal(verified.indices, answer.indices)
    assert (verified.scores is None) == (scores is None)
    if verified.scores is not None and answer.scores is not None:
        assert verified.scores.numpy().tobytes() == answer.scores.numpy().tobytes()


def test_an_answer_with_more_classes_is_refused() -> None:
    logits = normal_logits(4, 6)
    longer = sanitize(Stingy(num_classes=6, n=4), logits)
    assert longer.scores is not None
    with pytest.raises(PolicyViolation, match=r"1\.\.3 entries, got 4"):
        verify_answer(POLICY, longer.indices.numpy(), longer.scores.numpy())


def test_scores_that_leak_the_hidden_mass_are_refused() -> None:
    logits = normal_logits(4, 6).double()
    values, indices = logits.log_softmax(dim=1).topk(3, dim=1)
    leaking = values.round(decimals=3).float().numpy()
    with pytest.raises(PolicyViolation, match="renormalised"):
        verify_answer(POLICY, indices.numpy(), leaking)
    probabilities = dataclasses.replace(POLICY, scores=ScoreForm.PROB)
    with pytest.raises(PolicyViolation, match="renormalised"):
        verify_answer(
            probabilities, indices.numpy(), values.exp().round(decimals=3).float().numpy()
        )


Change = Callable[[Ints, Floats32], tuple[Ints, Floats32 | None]]
BROKEN: dict[str, Change] = {
    "no rows": lambda i, s: (i[:0], s[:0]),
    "no entries": lambda i, s: (i[:, :0], s[:, :0]),
    "another shape": lambda i, s: (i, s[:, :2]),
    "one dimension": lambda i, s: (i.ravel(), s.ravel()),
    "another index type": lambda i, s: (i.astype(np.int32), s),
    "another score type": lambda i, s: (i, s.astype(np.float64)),
    "an index beyond the classes": lambda i, s: (np.where(i == 4, 6, i), s),
    "an index below the classes": lambda i, s: (np.where(i == 4, -1, i), s),
    "an index twice": lambda i, s: (np.where(i == 4, 0, i), s),
    "no scores": lambda i, s: (i, None),
    "NaN": lambda i, s: (i, np.where(s == s.min(), np.float32(np.nan), s)),
    "infinity": lambda i, s: (i, np.where(s == s.min(), np.float32(-np.inf), s)),
    "off the grid": lambda i, s: (i, s - np.float32(0.0004)),
    "the best last": lambda i, s: (i[:, [1, 2, 0]], s[:, [1, 2, 0]]),
    "entries out of order": lambda i, s: (i[:, [0, 2, 1]], s[:, [0, 2, 1]]),
    "equal scores out of order": lambda i, s: (np.where(i == 1, 5, np.where(i == 5, 1, i)), s),
}


@pytest.mark.parametrize("form", [ScoreForm.LOG_PROB, ScoreForm.PROB, ScoreForm.LOGIT])
@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_breaks_a_promise_is_refused(form: ScoreForm, change: Change) -> None:
    policy = dataclasses.replace(POLICY, scores=form)
    indices, scores = arrays(form=form)
    verify_answer(policy, indices, scores)
    with pytest.raises(PolicyViolation):
        verify_answer(policy, *change(indices, scores))


def test_scores_other_than_the_ranks_are_refused_as_ranks() -> None:
    policy = dataclasses.replace(POLICY, scores=ScoreForm.RANK)
    ranks = np.array([[1, 2, 3]] * 2, np.float32)
    verify_answer(policy, INDICES, ranks)
    with pytest.raises(PolicyViolation, match="ranks"):
        verify_answer(policy, INDICES, LOG_PROBS)


def test_scores_are_refused_if_the_policy_has_none() -> None:
    policy = dataclasses.replace(POLICY, scores=ScoreForm.NONE)
    assert verify_answer(policy, INDICES, None).scores is None
    with pytest.raises(PolicyViolation, match="scores"):
        verify_answer(policy, INDICES, LOG_PROBS)


def test_a_verified_answer_shares_no_storage_with_its_input() -> None:
    indices, scores = arrays(form=ScoreForm.LOG_PROB)
    verified = verify_answer(POLICY, indices, scores)
    indices[:], scores[:] = 0, 0
    assert verified.indices.tolist() == INDICES.tolist()
    assert verified.scores is not None
    assert verified.scores.tolist() == LOG_PROBS.tolist()
