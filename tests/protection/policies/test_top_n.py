"""What each shipped policy lets out, against hand-made cases."""

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


def told(policy: Policy) -> dict[int, float]:
    answer = sanitize(policy, LOGITS)
    assert answer.scores is not None
    return dict(zip(answer.indices[0].tolist(), answer.scores[0].tolist(), strict=True))


def test_open_tells_every_logit() -> None:
    assert told(Open(num_classes=5)) == {0: -2.0, 1: 4.0, 2: 1.0, 3: 3.0, 4: 0.0}


def test_stingy_tells_the_n_largest_logits() -> None:
    assert told(Stingy(num_classes=5, n=3, scores=LOGIT)) == {1: 4.0, 3: 3.0, 2: 1.0}


def test_stingy_smooth_spreads_the_hidden_mass_evenly() -> None:
    share = math.log((math.exp(1) + math.exp(0) + math.exp(-2)) / 3)
    expected = {1: 4.0, 3: 3.0, 0: share, 2: share, 4: share}
    policy = StingySmooth(num_classes=5, n=2, scores=LOGIT, decimals=6)
    assert told(policy) == pytest.approx(expected, abs=1e-6)


def test_stingy_smooth_keeps_the_total_mass() -> None:
    smooth = told(StingySmooth(num_classes=5, n=2, scores=ScoreForm.PROB, decimals=6))
    true = LOGITS[0].softmax(dim=0)
    assert smooth[1] == pytest.approx(float(true[1]), abs=1e-6)
    assert smooth[3] == pytest.approx(float(true[3]), abs=1e-6)


def test_stingy_smooth_with_nothing_hidden_is_open() -> None:
    smooth = StingySmooth(num_classes=5, n=5, scores=LOGIT)
    assert told(smooth) == told(Open(num_classes=5))


@pytest.mark.parametrize("n", [0, 6, 1.0])
def test_stingy_smooth_refuses_n_outside_one_to_k(n: int) -> None:
    with pytest.raises(PolicyConfigError, match="expected n"):
        StingySmooth(num_classes=5, n=n)


def test_reversed_keeps_the_top1_and_turns_the_other_ranks_round() -> None:
    # Rank j gets the value of rank K + 2 - j: 2 <-> 5 and 3 <-> 4.
    assert told(Reversed(num_classes=5, scores=LOGIT)) == {1: 4.0, 3: -2.0, 2: 0.0, 4: 1.0, 0: 3.0}


def test_label_tells_the_top1_alone() -> None:
    answer = sanitize(Label(num_classes=5), LOGITS)
    assert (answer.indices.tolist(), answer.scores) == ([[1]], None)


def test_ranked_labels_tell_ranks_for_scores() -> None:
    assert told(RankedLabels(num_classes=5, n=3)) == {1: 1.0, 3: 2.0, 2: 3.0}


def test_rounded_tells_all_probabilities_on_a_coarse_grid() -> None:
    expected = [round(p, 2) for p in LOGITS[0].double().softmax(dim=0).tolist()]
    assert told(Rounded(num_classes=5)) == pytest.approx(dict(enumerate(expected)))
