"""What another gate let out is believed only where it keeps this policy's promises."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_strategies import finite_logits, noise_for, normal_logits, shipped
from stingy_protection import PolicyViolation, ScoreForm, Stingy, policy_names, sanitize
from stingy_protection.gate.promises import verified_answer
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
@settings(deadline=None, max_examples=200)
def test_whatever_the_gate_lets_out_is_let_through_unchanged(
    logits: torch.Tensor, name: str, form: ScoreForm, decimals: int
) -> None:
    policy = shipped(name, logits.shape[1])
    if policy.scores not in (ScoreForm.RANK, ScoreForm.NONE):
        policy = dataclasses.replace(policy, scores=form, decimals=decimals)
    answer = sanitize(policy, logits, noise=noise_for(policy, logits))
    scores = None if answer.scores is None else answer.scores.numpy()
    verified = verified_answer(policy, answer.indices.numpy(), scores)
    assert torch.equal(verified.indices, answer.indices)
    assert (verified.scores is None) == (scores is None)
    if verified.scores is not None and answer.scores is not None:
        assert verified.scores.numpy().tobytes() == answer.scores.numpy().tobytes()


def test_a_longer_answer_of_the_same_gate_is_refused() -> None:
    logits = normal_logits(4, 6)
    open_wide = sanitize(Stingy(num_classes=6, n=4), logits)
    assert open_wide.scores is not None
    with pytest.raises(PolicyViolation, match=r"1\.\.3 entries, got 4"):
        verified_answer(POLICY, open_wide.indices.numpy(), open_wide.scores.numpy())


def test_scores_that_tell_the_hidden_mass_are_refused() -> None:
    logits = normal_logits(4, 6).double()
    values, indices = logits.log_softmax(dim=1).topk(3, dim=1)
    told = values.round(decimals=3).float().numpy()
    with pytest.raises(PolicyViolation, match="renormalised"):
        verified_answer(POLICY, indices.numpy(), told)
    probabilities = dataclasses.replace(POLICY, scores=ScoreForm.PROB)
    with pytest.raises(PolicyViolation, match="renormalised"):
        verified_answer(
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
    verified_answer(policy, indices, scores)
    with pytest.raises(PolicyViolation):
        verified_answer(policy, *change(indices, scores))


def test_ranks_are_the_ranks_and_nothing_else() -> None:
    policy = dataclasses.replace(POLICY, scores=ScoreForm.RANK)
    ranks = np.array([[1, 2, 3]] * 2, np.float32)
    verified_answer(policy, INDICES, ranks)
    with pytest.raises(PolicyViolation, match="ranks"):
        verified_answer(policy, INDICES, LOG_PROBS)


def test_where_the_policy_tells_no_scores_none_may_come() -> None:
    policy = dataclasses.replace(POLICY, scores=ScoreForm.NONE)
    assert verified_answer(policy, INDICES, None).scores is None
    with pytest.raises(PolicyViolation, match="scores"):
        verified_answer(policy, INDICES, LOG_PROBS)


def test_what_is_let_through_shares_no_storage() -> None:
    indices, scores = arrays(form=ScoreForm.LOG_PROB)
    verified = verified_answer(POLICY, indices, scores)
    indices[:], scores[:] = 0, 0
    assert verified.indices.tolist() == INDICES.tolist()
    assert verified.scores is not None
    assert verified.scores.tolist() == LOG_PROBS.tolist()
