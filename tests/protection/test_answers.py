"""SparseLogits: an answer owns exactly the bytes that it shows, and its repr hides them."""

import pytest
import torch
from torch import Tensor

from stingy_protection import PolicyViolation, ScoreForm, SparseLogits

INDICES = torch.tensor([[1, 0], [2, 1], [0, 2]])
SCORES = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.875, 0.125]])


def answer(
    indices: Tensor = INDICES,
    scores: Tensor | None = SCORES,
    form: ScoreForm = ScoreForm.PROB,
) -> SparseLogits:
    return SparseLogits(indices, scores, num_classes=3, form=form, decimals=3)


def test_rows_are_copied_into_their_own_storage() -> None:
    middle = answer().rows(1, 2)
    assert len(answer()) == 3
    assert len(middle) == 1
    assert middle.scores is not None
    assert torch.equal(middle.indices, INDICES[1:2])
    assert torch.equal(middle.scores, SCORES[1:2])
    assert middle.scores.untyped_storage().nbytes() == 8


def test_an_answer_is_split_into_parts_with_their_own_storage() -> None:
    first, rest = answer().split([1, 2])
    assert torch.equal(first.indices, INDICES[:1])
    assert torch.equal(rest.indices, INDICES[1:])
    assert rest.indices.untyped_storage().nbytes() == 2 * 2 * 8
    whole = answer()
    assert whole.split([3]) == [whole]


def test_rows_of_an_answer_without_scores_have_none() -> None:
    assert answer(scores=None, form=ScoreForm.NONE).rows(0, 2).scores is None


@pytest.mark.parametrize(
    ("indices", "scores"),
    [
        (INDICES[:2], SCORES[:2].clone()),
        (INDICES[:2].clone(), SCORES[:2]),
        (INDICES.t(), SCORES),
        (INDICES.int(), SCORES),
        (INDICES, SCORES.double()),
        (INDICES, SCORES[:, :1].clone()),
        (INDICES[0].clone(), SCORES[0].clone()),
        (INDICES.to("meta"), SCORES),
        (INDICES, None),
    ],
)
def test_a_view_or_another_type_is_refused(indices: Tensor, scores: Tensor | None) -> None:
    with pytest.raises(PolicyViolation, match="expected"):
        answer(indices, scores)


def test_scores_are_refused_for_the_form_none() -> None:
    with pytest.raises(PolicyViolation, match="none"):
        answer(form=ScoreForm.NONE)


def test_the_repr_of_an_answer_has_no_indices_or_scores() -> None:
    assert "875" not in repr(answer())
    assert "tensor" not in repr(answer())


def test_concatenated_rows_equal_the_whole() -> None:
    whole = SparseLogits.concatenate([answer().rows(0, 1), answer().rows(1, 3)])
    assert whole.scores is not None
    assert torch.equal(whole.indices, INDICES)
    assert torch.equal(whole.scores, SCORES)
    assert (whole.num_classes, whole.form, whole.decimals) == (3, ScoreForm.PROB, 3)
    bare = answer(scores=None, form=ScoreForm.NONE)
    assert SparseLogits.concatenate([bare, bare]).scores is None
