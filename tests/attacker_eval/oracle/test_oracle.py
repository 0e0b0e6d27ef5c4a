"""Answers are checked where they come in, and become logits by their score form."""

import numpy as np
import pytest
import torch

from stingy_attacker_eval.errors import AnswersError
from stingy_attacker_eval.oracle.oracle import Answers, dense_logits

CPU = torch.device("cpu")
INDICES = np.array([[2, 0], [1, 3]], dtype=np.int64)
INF = float("inf")


def answers(form: str, scores: list[list[float]] | None) -> Answers:
    values = None if scores is None else np.array(scores, dtype=np.float32)
    return Answers(INDICES, values, 4, form)


@pytest.mark.parametrize("form", ["log_prob", "logit"])
def test_log_probabilities_and_logits_are_taken_as_they_are(form: str) -> None:
    dense = dense_logits(answers(form, [[5.0, -1.0], [0.0, -2.5]]), CPU)
    assert dense.tolist() == [[-1.0, -INF, 5.0, -INF], [-INF, 0.0, -INF, -2.5]]


def test_probabilities_become_logarithms_and_zero_is_withheld() -> None:
    dense = dense_logits(answers("prob", [[1.0, 0.0], [0.75, 0.25]]), CPU)
    assert dense[0].tolist() == [-INF, -INF, 0.0, -INF]
    torch.testing.assert_close(torch.softmax(dense, 1)[1], torch.tensor([0, 0.75, 0, 0.25]))


def test_a_row_rounded_to_zero_throughout_still_names_its_top1() -> None:
    dense = dense_logits(answers("prob", [[0.0, 0.0], [0.75, 0.25]]), CPU)
    assert torch.softmax(dense, 1)[0].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(("form", "scores"), [("rank", [[1.0, 2.0]] * 2), ("none", None)])
def test_answers_without_scores_are_refused(form: str, scores: list[list[float]] | None) -> None:
    with pytest.raises(AnswersError, match=f'score form "{form}" has none'):
        dense_logits(answers(form, scores), CPU)


@pytest.mark.parametrize(
    ("indices", "scores", "message"),
    [
        ([[4]], [[0.0]], "indices in 0..3"),
        ([[-1]], [[0.0]], "indices in 0..3"),
        ([[0, 1]], [[0.0]], "scores"),
        ([[0]], [[float("nan")]], "finite"),
        ([[0, 1, 2, 3, 0]], None, "N in 1..4"),
        ([0], None, r"\[n, N\]"),
    ],
)
def test_inconsistent_answers_are_refused(
    indices: list[list[int]], scores: list[list[float]] | None, message: str
) -> None:
    values = None if scores is None else np.array(scores, dtype=np.float32)
    with pytest.raises(AnswersError, match=message):
        Answers(np.array(indices, dtype=np.int64), values, 4, "log_prob")


def test_the_top1_is_the_first_of_each_answer() -> None:
    assert answers("none", None).top1.tolist() == [2, 1]
