"""The answers of the shipped policies, compared with hand-computed ones."""

import math

import pytest
import torch

from stingy_protection import (
    Label,
    Open,
    Policy,
    PolicyConfigError,
    RankedLabels,
    Reversed,
    Rounded,
    ScoreForm,
    Stingy,
    StingySmooth,
    sanitize,
)

#                        rank:  5    1    3    2    4
LOGITS = torch.tensor([[-2.0, 4.0, 1.0, 3.0, 0.0]])
LOGIT = ScoreForm.LOGIT


def scores_by_class(policy: Policy) -> dict[int, float]:
    answer = sanitize(policy, LOGITS)
    assert answer.scores is not None
    return dict(zip(answer.indices[0].tolist(), answer.scores[0].tolist(), strict=True))


def test_open_lets_out_every_logit() -> None:
    assert scores_by_class(Open(num_classes=5)) == {0: -2.0, 1: 4.0, 2: 1.0, 3: 3.0, 4: 0.0}


def test_stingy_lets_out_the_n_largest_logits() -> None:
    assert scores_by_class(Stingy(num_classes=5, n=3, scores=LOGIT)) == {1: 4.0, 3: 3.0, 2: 1.0}


def test_stingy_smooth_spreads_the_hidden_mass_evenly() -> None:
    share = math.log((math.exp(1) + math.exp(0) + math.exp(-2)) / 3)
    expected = {1: 4.0, 3: 3.0, 0: share, 2: share, 4: share}
    policy = StingySmooth(num_classes=5, n=2, scores=LOGIT, decimals=6)
    assert scores_by_class(policy) == pytest.approx(expected, abs=1e-6)


def test_stingy_smooth_keeps_the_total_mass() -> None:
    smooth = scores_by_class(StingySmooth(num_classes=5, n=2, scores=ScoreForm.PROB, decimals=6))
    true = LOGITS[0].softmax(dim=0)
    assert smooth[1] == pytest.approx(float(true[1]), abs=1e-6)
    assert smooth[3] == pytest.approx(float(true[3]), abs=1e-6)


def test_stingy_smooth_with_all_classes_equals_open() -> None:
    smooth = StingySmooth(num_classes=5, n=5, scores=LOGIT)
    assert scores_by_class(smooth) == scores_by_class(Open(num_classes=5))


@pytest.mark.parametrize("n", [0, 6, 1.0])
def test_stingy_smooth_refuses_n_outside_one_to_k(n: int) -> None:
    with pytest.raises(PolicyConfigError, match="expected n"):
        StingySmooth(num_classes=5, n=n)


def test_reversed_keeps_the_top1_and_reverses_the_other_ranks() -> None:
    # Rank j gets the value of rank K + 2 - j: 2 <-> 5 and 3 <-> 4.
    expected = {1: 4.0, 3: -2.0, 2: 0.0, 4: 1.0, 0: 3.0}
    assert scores_by_class(Reversed(num_classes=5, scores=LOGIT)) == expected


def test_label_lets_out_only_the_top1() -> None:
    answer = sanitize(Label(num_classes=5), LOGITS)
    assert (answer.indices.tolist(), answer.scores) == ([[1]], None)


def test_ranked_labels_have_ranks_as_scores() -> None:
    assert scores_by_class(RankedLabels(num_classes=5, n=3)) == {1: 1.0, 3: 2.0, 2: 3.0}


def test_rounded_lets_out_all_probabilities_on_a_coarse_grid() -> None:
    expected = [round(p, 2) for p in LOGITS[0].double().softmax(dim=0).tolist()]
    assert scores_by_class(Rounded(num_classes=5)) == pytest.approx(dict(enumerate(expected)))
