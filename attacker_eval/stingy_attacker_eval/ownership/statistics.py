"""The exact distribution of matches under the null hypothesis: the suspect never read the marks.

Invariant: the suspect's answers are taken as they are. Only the secret's choices are random.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.001
"""The level of a proof. A p-value is given only if the answers allow one as small as this."""

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class MatchTest:
    """The matches of a suspect, compared with those of a model that is independent of the marks.

    questions: marked inputs that the suspect answered.
    informative: answers that could match: those among the runners-up of their input.
    matches: answers that are the marked class.
    expected: matches of an independent model, on average, given the suspect's answers.
    smallest_p: the smallest p-value that these answers could have given.
    p_value: the probability that an independent model matches at least as often. None if
        `smallest_p` is above LEVEL.
    missing: marked inputs, about, that are missing for a p-value; 0 if there is one.
    missing_is_bound: True if at least so many are missing, because no answer was informative.
    """

    questions: int
    informative: int
    matches: int
    expected: float
    smallest_p: float
    p_value: float | None
    missing: int
    missing_is_bound: bool


def count_matches(matched: NDArray[np.bool_], among: NDArray[np.bool_], places: Int64) -> MatchTest:
    """Compare the answers to marked inputs with the secret's choices, for two runners-up or more.

    Given the suspect's answers, each choice is uniform among the m runners-up of its input and
    independent of the suspect. So an answer among them matches with probability 1/m, any other
    with 0, and the number of matches is Poisson-binomial.

    matched: whether the answer is the marked class, bool `[n]`.
    among: whether the answer is one of the runners-up, bool `[n]`.
    places: m, the number of runners-up of each input, int64 `[n]`, at least 2.

    References:
        "On the Number of Successes in Independent Trials" (Wang, Statistica Sinica 1993), on the
        Poisson-binomial distribution.
    """
    count, informative, matches = len(matched), int(among.sum()), int(matched.sum())
    pmf = null_distribution(places[among])
    smallest = float(pmf[-1])
    missing, is_bound = 0, False
    if smallest > LEVEL:
        fewest = places.min() if count else 2
        draws = math.ceil(math.log(smallest / LEVEL) / math.log(fewest))
        missing, is_bound = _scale_missing(draws, informative, count)
    return MatchTest(
        questions=count,
        informative=informative,
        matches=matches,
        expected=float((1 / places[among]).sum()),
        smallest_p=smallest,
        p_value=None if missing else min(1.0, float(pmf[matches:].sum())),
        missing=missing,
        missing_is_bound=is_bound,
    )


def null_distribution(places: Int64) -> Float64:
    """Compute the probabilities of 0, 1, ..., n matches of an independent model, `[n + 1]`.

    The direct convolution has no subtraction, so a small tail keeps its relative precision. A
    Fourier transform would lose it.

    places: the number of runners-up of each informative input, int64 `[n]`.
    """
    from scipy.stats import binom

    pmf: Float64 = np.ones(1)
    for number, count in zip(*np.unique(places, return_counts=True), strict=True):
        pmf = np.convolve(pmf, binom.pmf(np.arange(count + 1), count, 1 / number))
    return pmf


def compare_with_controls(matched: NDArray[np.bool_], controls: NDArray[np.bool_]) -> MatchTest:
    """Compare marked inputs with controls by Fisher's exact test, for a single runner-up.

    With one runner-up nothing is drawn but which inputs are marked. A suspect that never read the
    marks answers with the runner-up as often on marked inputs as on controls.

    matched: for each marked input, whether the answer is the runner-up, bool `[n]`.
    controls: the same for each control, bool `[c]`.

    References:
        "On the Interpretation of chi-squared from Contingency Tables" (Fisher, Journal of the
        Royal Statistical Society 1922).
    """
    from scipy.stats import hypergeom

    count, matches = len(matched), int(matched.sum())
    total, successes = count + len(controls), matches + int(controls.sum())
    null = hypergeom(total, successes, count)
    smallest = float(null.pmf(min(successes, count))) if total else 1.0
    missing, is_bound = 0, False
    if smallest > LEVEL:
        # If all successes were on marked inputs: about (count / total) to their number.
        share = min(max(count / max(total, 1), 1 / max(total, 2)), 0.9)
        needed = max(math.ceil(math.log(LEVEL) / math.log(share)), successes + 1)
        missing, is_bound = _scale_missing(needed - successes, successes, count)
    tail = float(null.pmf(np.arange(matches, min(successes, count) + 1)).sum()) if total else 1.0
    return MatchTest(
        questions=count,
        informative=successes,
        matches=matches,
        expected=count * successes / total if total else 0.0,
        smallest_p=smallest,
        p_value=None if missing else min(1.0, tail),
        missing=missing,
        missing_is_bound=is_bound,
    )


def controls_p_value(answers: Int64, expected: Int64) -> float:
    """Compute the probability of as many agreements on the controls as these, without relation.

    A suspect of other classes, or of another order of them, agrees no more often than two
    independent columns of classes with the same frequencies do. 1.0 without answers.

    answers: the suspect's classes for the controls, int64 `[c]`.
    expected: the endpoint's own classes, int64 `[c]`.
    """
    from scipy.stats import binom

    if not len(answers):
        return 1.0
    size = int(max(answers.max(), expected.max())) + 1
    frequencies = [
        np.bincount(column[column >= 0], minlength=size) for column in (answers, expected)
    ]
    chance = float((frequencies[0] * frequencies[1]).sum()) / len(answers) ** 2
    return float(binom.sf(int((answers == expected).sum()) - 1, len(answers), min(1.0, chance)))


def _scale_missing(draws: int, informative: int, count: int) -> tuple[int, bool]:
    """Return the questions for `draws` more informative answers, and whether that is a bound."""
    if not informative:
        return draws, True
    return math.ceil(draws * count / informative), False
