"""The null distribution of matches is exact, innocents are safe, and little evidence is named."""

from itertools import product
from math import comb

import numpy as np
import pytest

from exhibits import assert_innocents_pass
from stingy_attacker_eval.ownership.statistics import (
    LEVEL,
    compare_with_controls,
    controls_p_value,
    count_matches,
    null_distribution,
)


def flags(true: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.arange(count) < true


def threes(count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.full(count, 3, np.int64)


def test_Z1_innocents_have_small_p_values_no_more_than_alpha() -> None:
    assert_innocents_pass(count_matches)


def test_Z1_null_distribution_equals_every_draw_counted() -> None:
    places = np.array([2, 3, 3, 5])
    expected = np.zeros(5)
    for draw in product(*(range(m) for m in places)):
        expected[sum(choice == 0 for choice in draw)] += 1 / places.prod()
    assert null_distribution(places) == pytest.approx(expected)


def test_Z1_small_tail_keeps_its_relative_precision() -> None:
    test = count_matches(flags(200, 400), flags(200, 400), threes(400))
    assert test.p_value == pytest.approx(3.0**-200, rel=1e-9)


def test_Z1_controls_test_is_safe_for_innocents() -> None:
    generator = np.random.default_rng(2)
    values = []
    for _ in range(2000):
        answers = generator.random(160) < generator.random()
        marked = generator.permutation(160) < 80
        found = compare_with_controls(answers[marked], answers[~marked]).p_value
        values.append(1.0 if found is None else found)
    for level in (0.1, 0.05, 0.01):
        assert np.mean(np.array(values) <= level) <= level + 2 * (level * (1 - level) / 2000) ** 0.5


def test_controls_test_is_fishers() -> None:
    test = compare_with_controls(flags(9, 12), flags(2, 14))
    expected = sum(comb(11, k) * comb(15, 12 - k) for k in range(9, 12)) / comb(26, 12)
    assert test.p_value == pytest.approx(expected)
    assert (test.matches, test.questions, test.informative) == (9, 12, 11)


def test_matches_are_compared_with_those_by_chance() -> None:
    test = count_matches(flags(12, 50), flags(15, 50), threes(50))
    assert (test.questions, test.informative, test.matches) == (50, 15, 12)
    assert test.expected == pytest.approx(5)
    tail = sum(comb(15, k) * 2 ** (15 - k) for k in range(12, 16)) / 3**15
    assert test.p_value == pytest.approx(tail)
    assert test.missing == 0


@pytest.mark.parametrize("informative", [1, 6])
def test_Z2_too_few_answers_give_the_missing_questions(informative: int) -> None:
    test = count_matches(flags(informative, 30), flags(informative, 30), threes(30))
    assert test.p_value is None
    assert not test.missing_is_bound
    assert test.missing == pytest.approx((7 - informative) * 30 / informative)
    enough = 30 + test.missing
    likely = informative * enough // 30
    assert count_matches(flags(likely, enough), flags(likely, enough), threes(enough)).p_value


def test_Z2_no_informative_answer_gives_a_bound() -> None:
    test = count_matches(flags(0, 500), flags(0, 500), threes(500))
    assert (test.p_value, test.missing, test.missing_is_bound) == (None, 7, True)


def test_Z2_nothing_answered_gives_no_p_value() -> None:
    nothing = np.zeros(0, bool)
    assert count_matches(nothing, nothing, threes(0)).p_value is None
    assert compare_with_controls(nothing, nothing).p_value is None


@pytest.mark.parametrize(("matches", "count"), [(0, 40), (3, 40), (40, 40)])
def test_Z2_controls_test_names_the_missing_questions(matches: int, count: int) -> None:
    test = compare_with_controls(flags(matches, count), flags(count if matches == 40 else 0, count))
    assert test.smallest_p > LEVEL
    assert test.p_value is None
    assert test.missing > 0


@pytest.mark.parametrize("kind", ["constant", "random", "shifted"])
def test_controls_show_other_classes(kind: str) -> None:
    generator = np.random.default_rng(3)
    expected = generator.integers(0, 10, 100)
    answers = {
        "constant": np.zeros(100, np.int64),
        "random": generator.integers(0, 10, 100),
        "shifted": (expected + 1) % 10,
    }[kind]
    assert controls_p_value(answers, expected) > 0.01
    agreeing = np.where(generator.random(100) < 0.4, expected, answers)
    assert controls_p_value(agreeing, expected) < 0.01
