"""Intervals and tests have the sizes that they claim, on students that differ by chance alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from audit_results import BASE, audit_of, endpoint_of, row, rows_of
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.attacks.scores.soft_label import SoftLabel
from stingy_attacker_eval.report.label_only_baseline import (
    LabelOnlyBaseline,
    Outcome,
    label_only_baselines,
)
from stingy_attacker_eval.report.significance import Difference, holm
from stingy_attacker_eval.report.significance import difference as subtract
from stingy_attacker_eval.results import NO_ENDPOINT, Row, Summary, summarise

RUNS = 1000
MOST = 0.064  # 5 % and two standard errors of a share out of 1,000
MARGIN = 1.0
SPREAD = 0.3  # of a student's accuracy over seeds, as on CIFAR-10
TEST_IMAGES = 10_000


def difference(left: Summary, right: Summary, rows: list[Row]) -> Difference:
    return subtract(left, right, rows, test_images=TEST_IMAGES)


def rate(decide: Callable[[np.random.Generator], bool], runs: int = RUNS) -> float:
    """Return the share of repetitions that decide for it."""
    random = np.random.default_rng(0)
    return sum(decide(random) for _ in range(runs)) / runs


def group(attack: str, accuracies: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[Row]:
    return [row("list", attack, seed, BASE + value) for seed, value in enumerate(accuracies)]


def compared(students: np.ndarray[tuple[int], np.dtype[np.float64]], gap: float) -> Difference:
    """Compare two disjoint groups of five students, the first of them better by the gap."""
    rows = group("soft_label", students[:5] + gap) + group("label_only", students[5:10])
    left, right = summarise(rows)
    return difference(left, right, rows)


def test_E5_equal_groups_are_called_better_in_a_twentieth() -> None:
    students = SPREAD * np.random.default_rng(1).standard_normal(20)
    found = rate(lambda random: compared(random.permutation(students), 0.0).p_above() <= 0.05)
    assert 0.02 < found <= MOST


def test_E5_gap_of_the_margin_is_called_small_in_a_twentieth() -> None:
    students = SPREAD * np.random.default_rng(1).standard_normal(20)
    found = rate(
        lambda random: compared(random.permutation(students), MARGIN).p_below(MARGIN) <= 0.05
    )
    assert 0.02 < found <= MOST


def compared_list(random: np.random.Generator, gap: float, *, choosing: int) -> LabelOnlyBaseline:
    """Compare the best of six equal attacks on a list with labels.

    choosing: seeds beside five reported ones that choose the best.
    """
    labels = [f"soft_label[{number}]" for number in range(6)]
    seeds = range(choosing + 5)
    rows = [row(NO_ENDPOINT, "no_api", seed, BASE - 9) for seed in seeds]
    for attack, above in (("label_only", 0.0), *((label, gap) for label in labels)):
        accuracies = BASE + above + SPREAD * random.standard_normal(len(seeds))
        rows += [
            row("list", attack, seed, float(a), uplift=float(a) - BASE + 9)
            for seed, a in enumerate(accuracies)
        ]
    summaries = summarise(rows, selection_seeds=range(choosing))
    attacks = {"label_only": LabelOnly(), **dict.fromkeys(labels, SoftLabel())}
    (found,) = label_only_baselines(
        [endpoint_of("list")],
        summaries,
        [each for each in rows if each.seed >= choosing],
        attacks,
        margin=MARGIN,
        test_images=TEST_IMAGES,
    )
    return found


def test_E5_best_of_six_equal_attacks_is_more_in_a_twentieth() -> None:
    def is_more(random: np.random.Generator, choosing: int) -> bool:
        return compared_list(random, 0.0, choosing=choosing).outcome is Outcome.MORE

    assert 0.02 < rate(lambda random: is_more(random, 3)) <= MOST
    # Chosen on the reported seeds, the best of six is called better far too often.
    assert rate(lambda random: is_more(random, 0)) > 2 * MOST


def test_E5_list_of_the_margin_is_no_more_in_a_twentieth() -> None:
    found = rate(lambda random: compared_list(random, MARGIN, choosing=3).p_no_more <= 0.05)
    assert 0.02 < found <= MOST
    # A list that teaches nothing more is found out.
    assert rate(lambda random: compared_list(random, 0.0, choosing=3).p_no_more <= 0.05) > 0.8


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_interval_has_the_true_difference_in_95_of_100(seeds: int) -> None:
    def has_it(random: np.random.Generator) -> bool:
        values = SPREAD * random.standard_normal((4, seeds)) + random.standard_normal(seeds)
        rows = [each for name, v in zip("abcd", values, strict=True) for each in group(name, v)]
        left, right = summarise(rows)[:2]
        interval = difference(left, right, rows).interval
        assert interval is not None
        return interval[0] <= 0 <= interval[1]

    assert 0.95 - 0.014 <= rate(has_it) <= 0.95 + 0.03


def uplift_of_noisy_baseline(random: np.random.Generator, *, is_alike: bool) -> Difference:
    """Compare one of six attacks with a baseline of few labels, which varies five times as much.

    Each attack gains as many points as the margin.
    """
    values = SPREAD * random.standard_normal((7, 5))
    values[0] = 5 * values[0] - MARGIN
    rows = [
        row(name, name, seed, BASE + float(value))
        for name, own in zip((NO_ENDPOINT, *"abcdef"), values, strict=True)
        for seed, value in enumerate(own)
    ]
    base, attack = summarise(rows)[:2]
    return subtract(attack, base, rows, test_images=TEST_IMAGES, is_baseline_alike=is_alike)


@pytest.mark.parametrize("is_alike", [False, True])
def test_E5_bound_over_a_noisy_baseline_errs_in_a_twentieth(is_alike: bool) -> None:
    def is_too_low(random: np.random.Generator) -> bool:
        found = uplift_of_noisy_baseline(random, is_alike=is_alike)
        assert found.upper is not None
        return found.upper < MARGIN

    assert rate(is_too_low, 300) <= 0.075  # two standard errors


@pytest.mark.parametrize("labelled", [1.0, 0.05, 0.0])
def test_E5_baseline_of_fewer_labels_has_its_own_error(tmp_path: Path, labelled: float) -> None:
    rows = rows_of({"open": {"label_only": 0.1, "soft_label": 3.0}})
    config = {"attackers": [{"name": "owner", "labelled": labelled}]}
    audit = audit_of(tmp_path, rows, config=config)
    found = audit.uplift(audit.best["open"])
    assert (found.freedom == 2) is (labelled < 1)
    if labelled < 1:
        gaps = [r.accuracy for r in rows if r.attack == "soft_label"]
        base = [r.accuracy for r in rows if r.endpoint == NO_ENDPOINT]
        interval = stats.ttest_rel(gaps, base).confidence_interval()
        assert found.interval == pytest.approx((interval.low, interval.high))


def test_E5_two_seeds_of_a_small_test_set_rarely_differ() -> None:
    def is_clear(random: np.random.Generator) -> bool:
        # Of 200 test images each accuracy is a multiple of half a point, and gaps are often equal.
        values = np.round((BASE + SPREAD * random.standard_normal((2, 2))) * 2) / 2
        rows = group("soft_label", values[0] - BASE) + group("label_only", values[1] - BASE)
        left, right = summarise(rows)
        rows = [r.model_copy(update={"predictions": f"{r.attack}{r.seed}"}) for r in rows]
        found = subtract(left, right, rows, test_images=200)
        assert found.error
        return found.is_clear

    assert rate(is_clear, 400) <= 0.072  # two standard errors


def test_power_of_a_tiny_error_is_one() -> None:
    for error in (1e-300, 1e-12, 1e-4, 1e-3):
        assert Difference(0.0, error, 5, 4).power(MARGIN) == 1.0
        assert Difference(0.0, error, 2, 1).power(MARGIN, level=0.005) == 1.0


def test_power_is_the_share_of_small_gaps_found() -> None:
    found = Difference(0.0, 0.25, 5, 8)
    shares = stats.norm.rvs(size=(20_000,), random_state=1) * 0.25
    errors = 0.25 * np.sqrt(stats.chi2.rvs(8, size=20_000, random_state=2) / 8)
    below = (MARGIN - shares) / errors >= stats.t.ppf(0.95, 8)
    assert found.power(MARGIN) == pytest.approx(below.mean(), abs=0.01)
    assert found.power(MARGIN, level=0.005) < found.power(MARGIN)


def test_bounds_and_p_values_are_those_of_students_t() -> None:
    found = Difference(0.6, 0.2, 5, 4)
    assert found.interval == pytest.approx(stats.t.interval(0.95, 4, 0.6, 0.2))
    assert found.upper == pytest.approx(0.6 + stats.t.ppf(0.95, 4) * 0.2)
    assert found.p_above() == pytest.approx(stats.t.sf(3.0, 4))
    assert found.p_below(1.0) == pytest.approx(stats.t.sf(2.0, 4))
    assert found.text == "+0.6 (+0.04 to +1.16, n = 5)"


def test_holm_multiplies_by_the_tests_that_are_left() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_equal_students_count_once() -> None:
    values = np.array([0.1, -0.2, 0.3])
    rows = group("a", values) + group("b", np.array([0.3, 0.2, -0.4]))
    left, right = summarise(rows)
    alone = difference(left, right, rows)
    copies = [each.model_copy(update={"endpoint": f"copy{n}"}) for n in range(9) for each in rows]
    assert difference(left, right, rows + copies) == alone
    # With predictions, students of equal accuracy may be different ones.
    rows += group("c", np.array([0.4, -0.3, 0.2]))
    named = [each.model_copy(update={"predictions": f"{each.attack}{each.seed}"}) for each in rows]
    twin = [
        each.model_copy(update={"attack": "d", "predictions": f"d{each.seed}"})
        for each in named
        if each.attack == "c"
    ]
    assert difference(left, right, named) == difference(left, right, rows)
    assert difference(left, right, named + twin) != difference(left, right, named)


def resembling(random: np.random.Generator, kind: str) -> list[list[float]]:
    """Draw the accuracies of eleven students with five seeds; the first and last are compared."""
    own, seeds = random.standard_normal((11, 5)), random.standard_normal(5)
    shared = random.standard_normal((2, 5))
    if kind == "settings":  # ten of one recipe, and labels
        own[:10] = shared[0] + 0.15 * own[:10]
    elif kind == "kinds":  # eight on lists, three on labels
        own = 0.7 * own + 0.7 * shared[[0] * 8 + [1] * 3]
    elif kind == "one varies more":
        own[0] *= 1.6
    return [[float(each) for each in row] for row in BASE + SPREAD * (own + seeds)]


@pytest.mark.parametrize("kind", ["settings", "kinds", "one varies more"])
@pytest.mark.parametrize("is_turned", [False, True])
def test_E5_students_that_resemble_each_other_do_not_narrow_it(kind: str, is_turned: bool) -> None:
    def misses(random: np.random.Generator) -> bool:
        rows = [
            row("list", f"attack{number:02}", seed, accuracy)
            for number, own in enumerate(resembling(random, kind))
            for seed, accuracy in enumerate(own)
        ]
        sides = summarise(rows)[:: 10 * (-1 if is_turned else 1)]
        return difference(sides[0], sides[1], rows).is_clear

    assert rate(misses, 400) <= 0.072  # two standard errors


def test_student_equals_itself_without_an_error() -> None:
    rows = group("a", np.array([0.1, -0.2, 0.3])) + group("b", np.array([0.3, 0.2, -0.4]))
    copies = [each.model_copy(update={"endpoint": "other"}) for each in rows]
    summaries = summarise(rows + copies)
    found = difference(summaries[0], summaries[2], rows + copies)
    assert (found.mean, found.error, found.p_above(), found.p_below(1.0)) == (0, 0, 1.0, 0.0)


def test_other_seeds_are_compared_by_welch() -> None:
    rows = group("a", np.array([0.0, 0.3, 0.6])) + [
        row("list", "b", seed, BASE + value) for seed, value in ((7, 0.0), (8, 2.0))
    ]
    left, right = summarise(rows)
    found, expected = (
        difference(left, right, rows),
        stats.ttest_ind([0.0, 0.3, 0.6], [0.0, 2.0], equal_var=False),
    )
    assert found.freedom == pytest.approx(expected.df)
    assert 2 * found.p_below(0.0) == pytest.approx(expected.pvalue)


def test_one_seed_has_no_interval() -> None:
    found = Difference(1.0, None, 1, None)
    assert (found.interval, found.upper, found.is_clear) == (None, None, False)
    assert (found.p_above(), found.p_below(2.0), found.power(1.0)) == (1.0, 1.0, 0.0)
    assert found.text == "+1.0 (one seed)"
