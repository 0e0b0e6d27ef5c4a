"""The utility of hand-made answers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stingy_clients.utility import calibration_error, top1_probability, utility

INDICES = np.array([[1, 0, 2], [0, 1, 2], [2, 1, 0], [0, 2, 1]])
LABELS = np.array([1, 1, 2, 0])


def scores(*rows: list[float]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(rows, np.float32)


PROB = scores([0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.9, 0.1, 0.0], [0.6, 0.2, 0.2])


def test_utility_counts_top1_top5_and_bytes() -> None:
    kept = utility(INDICES, PROB, "prob", LABELS)
    assert (kept.images, kept.top1, kept.top5) == (4, 75.0, 100.0)
    assert kept.answer_bytes == 3 * 12


def test_top5_counts_only_the_first_five_classes() -> None:
    indices = np.tile(np.arange(8), (2, 1))
    kept = utility(indices, None, "none", np.array([4, 5]))
    assert (kept.top1, kept.top5, kept.answer_bytes) == (0.0, 50.0, 64)


def test_top5_of_a_short_list_counts_its_classes_only() -> None:
    assert utility(INDICES[:, :1], None, "none", LABELS).top5 == 75.0


def test_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    # Two answers of 0.9, both right: gap 0.1. Two of 0.6, one right: gap 0.1. Weighted: 10 points.
    kept = utility(INDICES, PROB, "prob", LABELS)
    assert kept.ece == pytest.approx(10.0, abs=1e-4)


def test_calibration_error_of_sure_wrong_answers_is_100() -> None:
    assert calibration_error(np.array([1.0]), np.array([False])) == 100.0
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0.0


@pytest.mark.parametrize(
    ("form", "values", "probability"),
    [
        ("prob", [0.7, 0.3], 0.7),
        ("log_prob", [math.log(0.7), math.log(0.3)], 0.7),
        ("logit", [3.0, 2.0], 1 / (1 + math.exp(-1))),
        ("logit", [3e38, -3e38], 1.0),
    ],
)
def test_probability_of_the_first_class_is_read_in_each_form(
    form: str, values: list[float], probability: float
) -> None:
    found = top1_probability(scores(values), form)
    assert found is not None
    assert found[0] == pytest.approx(probability, abs=1e-6)


@pytest.mark.parametrize("form", ["rank", "none"])
def test_ranks_and_labels_have_no_probability(form: str) -> None:
    values = None if form == "none" else scores([1, 2, 3]).repeat(4, axis=0)
    assert utility(INDICES, values, form, LABELS).ece is None


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
)
def test_calibration_error_lies_in_0_to_100(pairs: list[tuple[float, bool]]) -> None:
    confidence, correct = np.array([p for p, _ in pairs]), np.array([c for _, c in pairs])
    assert 0.0 <= calibration_error(confidence, correct) <= 100.0 + 1e-9


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        utility(INDICES, PROB, "prob", LABELS[:3])
    with pytest.raises(ValueError, match="scores"):
        utility(INDICES, PROB[:, :2], "prob", LABELS)
    with pytest.raises(ValueError, match="labels"):
        utility(INDICES[:0], None, "none", LABELS[:0])
