"""The results of a study: who is found, after how many questions, and who is accused."""

from collections.abc import Mapping, Sequence

import numpy as np

from stingy_attacker_eval.mark_study.rows import (
    LEVELS,
    Accusations,
    AnyRow,
    EndpointRow,
    InnocentRow,
    OrderRow,
    ThiefRow,
    judge_letters,
    judge_preferred,
)
from stingy_attacker_eval.mark_study.settings import Study
from stingy_attacker_eval.ownership.statistics import LEVEL, MatchTest
from stingy_attacker_eval.report_schema import Document

QUESTIONS = (25, 50, 100, 200, 500, 1000, 2000, 5000)
_ENOUGH = 0.9
_MOST_QUESTIONS = 100_000


class Judgement(Document):
    """The marked inputs of all seeds under one test.

    Attributes:
        informative: answers that could match.
        p_values: of each seed; None without enough evidence.
        p_value: of all seeds' inputs in one test.
        chances: the probability to find the thief, p at most 0.001, for each number of questions.
        needed: the questions for a probability of 0.9; None if the rates are those of chance.
    """

    questions: int
    informative: int
    matches: int
    expected: float
    p_values: tuple[float | None, ...]
    p_value: float | None
    chances: dict[str, float]
    needed: int | None


class ThiefResult(Document):
    """A thief at one share, over the seeds.

    Attributes:
        accuracy, agreement: the mean over the seeds, in percent.
        queries: the mean over the seeds.
        found: seeds with a p-value of at most 0.001.
        answers: the test of the student's classes.
        preferred: the test of the runner-up that the student scores highest; it needs scores.
        placebo: the test of the controls, with marks that nobody got.
    """

    student: str
    share: float
    seeds: int
    accuracy: float
    agreement: float
    queries: int
    found: int
    answers: Judgement
    preferred: Judgement
    placebo: Judgement


class InnocentResult(Document):
    """The innocents of one kind at one share.

    Attributes:
        data: the data of the students, or "all".
        tried: pairs of a student and a secret.
        judged: those with enough evidence for a p-value.
        at_most: the share of pairs with a p-value of at most each level.
        preferred: the same for the test of all runners-up.
        limit: each level and two standard errors over the pairs.
    """

    data: str
    share: float
    students: int
    tried: int
    judged: int
    at_most: dict[str, float]
    preferred: dict[str, float]
    limit: dict[str, float]


class Results(Document):
    """The document `results.json`."""

    format: str = "stingy mark study 1"
    title: str
    study: str
    environment: dict[str, str | None]
    endpoints: tuple[EndpointRow, ...]
    thieves: tuple[ThiefResult, ...]
    innocents: tuple[InnocentResult, ...]
    orders: tuple[OrderRow, ...]
    students: int
    seconds: float


def summarise(
    study: Study,
    rows: Sequence[AnyRow],
    *,
    environment: Mapping[str, str | None],
    study_digest: str,
) -> Results:
    """Summarise the rows that there are. Students whose loss was not finite are left out."""
    thieves = [row for row in rows if isinstance(row, ThiefRow) and row.finite]
    innocents = [row for row in rows if isinstance(row, InnocentRow) and row.finite]
    orders = [row for row in rows if isinstance(row, OrderRow) and row.finite]
    groups: dict[tuple[str, float], list[ThiefRow]] = {}
    for row in thieves:
        groups.setdefault((row.student, row.share), []).append(row)
    order = list(study.thieves)
    return Results(
        title=study.title,
        study=study_digest,
        environment=dict(environment),
        endpoints=tuple(row for row in rows if isinstance(row, EndpointRow)),
        thieves=tuple(
            _summarise_thief(group)
            for _, group in sorted(groups.items(), key=lambda g: (order.index(g[0][0]), g[0][1]))
        ),
        innocents=tuple(_summarise_innocents(innocents)),
        orders=tuple(orders),
        students=len(thieves) + len(innocents) + sum(row.data == "thief" for row in orders),
        seconds=round(sum(row.seconds for row in rows), 1),
    )


def find_chance(questions: int, informative: float, matching: float, runners_up: int) -> float:
    """Compute the probability that a thief is found, p at most LEVEL, with so many questions.

    informative: the probability that an answer is among the runners-up.
    matching: the probability that such an answer is the mark.
    """
    from scipy.stats import binom

    mean = questions * informative
    spread = 8 * (mean * (1 - informative)) ** 0.5 + 10  # numbers beyond it have no weight
    counts = np.arange(max(1, int(mean - spread)), min(questions, int(mean + spread)) + 1)
    weights = binom.pmf(counts, questions, informative)
    most = binom.isf(LEVEL, counts, 1 / runners_up)  # so many matches are not enough yet
    return float((weights * binom.sf(most, counts, matching)).sum())


def questions_needed(informative: float, matching: float, runners_up: int) -> int | None:
    """Return the questions after which a thief is found with probability 0.9, to two digits.

    None if more than 100,000 are needed.
    """
    low, high = 1, 2
    while find_chance(high, informative, matching, runners_up) < _ENOUGH:
        low, high = high, 2 * high
        if high > _MOST_QUESTIONS:
            return None
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        enough = find_chance(middle, informative, matching, runners_up) >= _ENOUGH
        low, high = (low, middle) if enough else (middle, high)
    return high


def _summarise_thief(rows: Sequence[ThiefRow]) -> ThiefResult:
    most = rows[0].runners_up
    answers = _test([row.test() for row in rows], most)
    return ThiefResult(
        student=rows[0].student,
        share=rows[0].share,
        seeds=len(rows),
        accuracy=float(np.mean([row.accuracy for row in rows])),
        agreement=float(np.mean([row.agreement for row in rows])),
        queries=round(np.mean([row.queries for row in rows])),
        found=sum(p is not None and p <= LEVEL for p in answers.p_values),
        answers=answers,
        preferred=_test([judge_preferred(row.preferred, most) for row in rows], most),
        placebo=_test([judge_letters(row.placebo, most) for row in rows], most),
    )


def _test(tests: Sequence[MatchTest], runners_up: int) -> Judgement:
    questions = sum(test.questions for test in tests)
    informative = sum(test.informative for test in tests)
    matches = sum(test.matches for test in tests)
    # The same letters in one test; a choice is as independent over seeds as within one.
    pooled = judge_letters(
        "m" * matches + "r" * (informative - matches) + "t" * (questions - informative), runners_up
    )
    found = pooled.p_value is not None and pooled.p_value <= 0.01
    rates = (informative / max(1, questions), matches / max(1, informative))
    return Judgement(
        questions=questions,
        informative=informative,
        matches=matches,
        expected=pooled.expected,
        p_values=tuple(test.p_value for test in tests),
        p_value=pooled.p_value,
        chances={
            str(count): round(find_chance(count, *rates, runners_up), 3) for count in QUESTIONS
        },
        needed=questions_needed(*rates, runners_up) if found else None,
    )


def _summarise_innocents(rows: Sequence[InnocentRow]) -> list[InnocentResult]:
    kinds = {
        "true labels, the thief's images": ("owned",),
        "true labels, other images": ("other",),
        "answers of an honest key": ("honest",),
        "all": ("owned", "other", "honest"),
    }
    found = []
    for title, data in kinds.items():
        members = [row for row in rows if row.data in data]
        groups: dict[float, list[Accusations]] = {}
        for row in members:
            for each in row.accusations:
                groups.setdefault(each.share, []).append(each)
        for share, group in sorted(groups.items()):
            tried = sum(each.tried for each in group)
            levels = {f"{level:g}": level for level in LEVELS}
            found.append(
                InnocentResult(
                    data=title,
                    share=share,
                    students=len(members),
                    tried=tried,
                    judged=sum(each.judged for each in group),
                    at_most=_shares([each.at_most for each in group], tried),
                    preferred=_shares([each.preferred for each in group], tried),
                    limit={
                        name: level + 2 * (level * (1 - level) / tried) ** 0.5
                        for name, level in levels.items()
                    },
                )
            )
    return found


def _shares(counts: Sequence[Mapping[str, int]], tried: int) -> dict[str, float]:
    return {name: sum(count[name] for count in counts) / tried for name in counts[0]}
