"""The proof: one sentence and one JSON document about a suspect's answers to an exhibit.

Two tests read the answers: the classes that the suspect gives, and the runner-up that it ranks
first, if its answers tell more than one class. The p-value is then twice the smaller one.

Invariant: there is no p-value without enough evidence, and none of a suspect of other classes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from stingy_attacker_eval.errors import ProofError
from stingy_attacker_eval.ownership.interview import UNKNOWN, Interview
from stingy_attacker_eval.ownership.statistics import (
    LEVEL,
    MatchTest,
    compare_with_controls,
    controls_p_value,
    count_matches,
)
from stingy_clients.documents.exhibit import Exhibit, Item

_FEWEST_CONTROLS = 20  # that can show other classes
_UNRELATED = 0.01  # a p-value of the controls above this is a suspect of other classes

LIMITS = (
    "It does not prove who trained the suspect, or when, or that a law was broken.",
    "It does not prove a copy: a service that forwards queries to this endpoint matches, too.",
    "The p-value is the probability of so many matches if the suspect is independent. It is not "
    "the probability that the suspect is independent.",
    "If several suspects were tried, multiply the p-value by their number.",
    "Marks, key ids and times are the owner's own records. They convince others only if the digest "
    "of the exhibit, or the ledger's head, was deposited before the suspect was questioned.",
    "Without a match the suspect may still be a copy: docs/prove.md names the ways to escape.",
)


class Verdict(StrEnum):
    """The outcome of a proof."""

    MATCH = "match"
    NO_MATCH = "no_match"
    TOO_LITTLE_EVIDENCE = "too_little_evidence"
    OTHER_CLASSES = "other_classes"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Controls(_Part):
    """The suspect's answers to the controls.

    Attributes:
        questions: controls that the suspect answered.
        agreements: answers that are the endpoint's own.
        p_value: the probability of as many agreements of an unrelated suspect.
        placebo: the same test as on the marked inputs, with marks that were never given out. None
            if inputs have one runner-up, because the controls are then a part of the test itself.
        placebo_order: the same for the test of the order.
    """

    questions: int
    agreements: int
    p_value: float
    placebo: MatchTest | None
    placebo_order: MatchTest | None


class Question(_Part):
    """A marked input, and the suspect's answer; None if there is none, -1 for another class."""

    id: str
    sha256: str
    key: str
    version: str
    time: str
    writer: str | None
    number: int | None
    top1: int
    runners_up: tuple[int, ...]
    mark: int
    answer: int | None


class Proof(_Part):
    """The document of a proof.

    Attributes:
        sentence: the verdict in words.
        remarks: what a reader has to know of the interview.
        limits: what the proof does not prove.
        classes_used: classes of the exhibit that the suspect answered with.
        p_value: the probability of so many matches of an independent model; None without enough
            evidence.
        marked: the test of the classes that the suspect gives.
        order: the test of the runner-up that it ranks first; None if its answers are one class.
        keys: the marked inputs of each key id.
        first, last: the times of the first and the last marked answer, in UTC.
    """

    format: Literal["stingy proof 1"] = "stingy proof 1"
    created: str
    verdict: Verdict
    sentence: str
    remarks: tuple[str, ...]
    limits: tuple[str, ...] = LIMITS
    level: float = LEVEL
    suspect: str
    answered: int
    unanswered: int
    failure: str | None
    unknown_classes: tuple[str, ...]
    classes_used: int
    p_value: float | None
    marked: MatchTest
    order: MatchTest | None
    controls: Controls
    model: str
    labels: tuple[str, ...]
    share: float
    runners_up: int
    digest: str
    commitment: str
    exported: str
    keys: dict[str, int]
    first: str
    last: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class _Found:
    """The outcome of the tests, before it is put into words."""

    verdict: Verdict
    p_value: float | None
    test: MatchTest
    order: MatchTest | None
    controls: Controls


def judge_suspect(exhibit: Exhibit, interview: Interview, *, suspect: str) -> Proof:
    """Compare a suspect's answers with the marks of an exhibit.

    Raises ProofError if the exhibit has no marked input.
    """
    check_provable(exhibit)
    single = all(len(item.runners_up) == 1 for item in exhibit.items)
    marked, controls = (
        [item for item in items if item.id in interview.answers]
        for items in (exhibit.marked, exhibit.controls)
    )
    if single:
        test = compare_with_controls(
            _find_matches(marked, interview), _find_matches(controls, interview)
        )
    else:
        test = _count(marked, interview)
    agreements = Controls(
        questions=len(controls),
        agreements=sum(interview.answers[item.id] == item.top1 for item in controls),
        p_value=controls_p_value(
            np.array([interview.answers[item.id] for item in controls], np.int64),
            np.array([item.top1 for item in controls], np.int64),
        ),
        placebo=None if single else _count(controls, interview),
        placebo_order=_count_order(controls, interview),
    )
    order = _count_order(marked, interview)
    p_value = _combine(test, order)
    verdict = _decide(p_value, agreements, interview)
    if verdict is Verdict.OTHER_CLASSES:
        p_value, test = None, replace(test, p_value=None)
        order = None if order is None else replace(order, p_value=None)
    found = _Found(verdict, p_value, test, order, agreements)
    times = sorted(item.time for item in exhibit.marked)
    return Proof(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict=verdict,
        sentence=_write_sentence(found, interview),
        remarks=tuple(_remarks(found, interview)),
        suspect=suspect,
        answered=len(interview.answers),
        unanswered=interview.unanswered,
        failure=interview.failure,
        unknown_classes=interview.unknown,
        classes_used=len(set(interview.answers.values()) - {UNKNOWN}),
        p_value=p_value,
        marked=test,
        order=order,
        controls=agreements,
        model=exhibit.model,
        labels=exhibit.labels,
        share=exhibit.share,
        runners_up=exhibit.most_runners_up,
        digest=exhibit.digest,
        commitment=exhibit.commitment,
        exported=exhibit.created,
        keys=dict(sorted(Counter(item.key for item in exhibit.marked).items())),
        first=times[0],
        last=times[-1],
        questions=tuple(_question(item, interview) for item in exhibit.marked),
    )


def check_provable(exhibit: Exhibit) -> None:
    """Raise ProofError unless the exhibit has marked inputs."""
    if not exhibit.marked:
        raise ProofError(
            "expected an exhibit with marked inputs, got one without: no answer was marked yet, so "
            "there is nothing to question a suspect about"
        )


def _count(items: Sequence[Item], interview: Interview) -> MatchTest:
    """Count the matches of inputs with two runners-up or more; of one, nothing was drawn."""
    drawn = [item for item in items if len(item.runners_up) > 1]
    return count_matches(
        _find_matches(drawn, interview),
        np.array([interview.answers[item.id] in item.runners_up for item in drawn], bool),
        np.array([len(item.runners_up) for item in drawn], np.int64),
    )


def _count_order(items: Sequence[Item], interview: Interview) -> MatchTest | None:
    """Count the inputs whose mark is ranked first of the runners-up.

    Given the suspect's answers, each choice is uniform among the runners-up, so the one ranked
    first is the mark with probability 1/m.

    Returns None if no answer tells more than its class, because the count is then that of `_count`.
    """
    drawn = [item for item in items if len(item.runners_up) > 1]
    if all(interview.answers[i.id] in i.runners_up for i in drawn if i.id in interview.preferred):
        return None
    return count_matches(
        np.array([interview.preferred.get(item.id) == item.mark for item in drawn], bool),
        np.array([item.id in interview.preferred for item in drawn], bool),
        np.array([len(item.runners_up) for item in drawn], np.int64),
    )


def _combine(test: MatchTest, order: MatchTest | None) -> float | None:
    """Return the p-value of both tests: Bonferroni's, because they share answers."""
    if order is None:
        return test.p_value
    found = [each.p_value for each in (test, order) if each.p_value is not None]
    return min(1.0, 2 * min(found)) if found else None


def _find_matches(
    items: Sequence[Item], interview: Interview
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array([interview.answers[item.id] == item.mark for item in items], bool)


def _decide(p_value: float | None, controls: Controls, interview: Interview) -> Verdict:
    unknown = sum(index == UNKNOWN for index in interview.answers.values())
    unrelated = controls.questions >= _FEWEST_CONTROLS and controls.p_value > _UNRELATED
    if 2 * unknown > len(interview.answers) or unrelated:
        return Verdict.OTHER_CLASSES
    if p_value is None:
        return Verdict.TOO_LITTLE_EVIDENCE
    return Verdict.MATCH if p_value <= LEVEL else Verdict.NO_MATCH


def _write_sentence(found: _Found, interview: Interview) -> str:
    verdict, test, order, controls = found.verdict, found.test, found.order, found.controls
    counted = (
        f"the suspect gave the marked class for {test.matches} of {test.questions} marked inputs, "
        f"where an independent model would give {test.expected:.1f} by chance"
    )
    if order is not None:
        counted += (
            f", and ranked it first of the runners-up for {order.matches} of {order.informative}, "
            f"by chance {order.expected:.1f}"
        )
    if verdict is Verdict.OTHER_CLASSES:
        if interview.unknown:
            names = ", ".join(f'"{name}"' for name in interview.unknown)
            return (
                f"No judgement: the suspect answers other classes than the exhibit's, such as "
                f"{names}; name the exhibit's class for each in the template's [classes]."
            )
        return (
            f"No judgement: the suspect agrees with {controls.agreements} of "
            f"{controls.questions} controls, no more than an unrelated model does; its classes may "
            "be in another order, which the template's [classes] can name."
        )
    if verdict is Verdict.TOO_LITTLE_EVIDENCE:
        nearest = test if order is None or order.informative < test.informative else order
        about = "at least" if nearest.missing_is_bound else "about"
        return (
            f"Too little evidence for a p-value: only {nearest.informative} answers could match a "
            f"mark, so {about} {nearest.missing:,} marked inputs are missing ({counted})."
        )
    chance = f"(p = {format_p(found.p_value)})"
    if verdict is Verdict.MATCH:
        return (
            f"Match: {counted} {chance}, so the suspect's answers depend on marks that only this "
            "endpoint gave."
        )
    return (
        f"No match: {counted} {chance}, so these answers do not tell the suspect from an "
        "independent model."
    )


def _remarks(found: _Found, interview: Interview) -> list[str]:
    test, order, controls = found.test, found.order, found.controls
    remarks = []
    if order is not None and found.p_value is not None:
        remarks.append(
            "The p-value is twice the smaller one of two tests: of the classes "
            f"({format_p(test.p_value)}) and of the order of the runners-up "
            f"({format_p(order.p_value)})."
        )
    if interview.failure is not None:
        remarks.append(
            f"{interview.unanswered} questions have no answer; the suspect's last failure: "
            f"{interview.failure}."
        )
    elif interview.unanswered:
        remarks.append(f"{interview.unanswered} questions have no answer.")
    if interview.unknown and found.verdict is not Verdict.OTHER_CLASSES:
        names = ", ".join(f'"{name}"' for name in interview.unknown)
        remarks.append(f"Some answers are no class of the exhibit and match nothing: {names}.")
    if controls.questions < _FEWEST_CONTROLS:
        remarks.append(
            f"With {controls.questions} controls it cannot be shown that the suspect has the "
            "exhibit's classes in their order."
        )
    for placebo in (controls.placebo, controls.placebo_order):
        if placebo is not None and placebo.p_value is not None and placebo.p_value <= LEVEL / 2:
            remarks.append(
                f"The controls match marks that were never given out, {placebo.matches} times "
                f"where chance gives {placebo.expected:.1f}: do not trust this exhibit."
            )
    most = max(each.informative for each in (test, order) if each is not None)
    if found.p_value is not None and most < 3 * _FEWEST_CONTROLS:
        remarks.append(f"Only {most} answers could match. A weak trace of the marks needs more.")
    return remarks


def format_p(value: float | None) -> str:
    """Format a p-value with two digits."""
    if value is None:
        return "none"
    if value < 1e-300:
        return "less than 1e-300"
    return f"{value:.2g}"


def _question(item: Item, interview: Interview) -> Question:
    ledger = item.ledger
    return Question(
        id=item.id,
        sha256=item.sha256,
        key=item.key,
        version=item.version,
        time=item.time,
        writer=None if ledger is None else ledger.writer,
        number=None if ledger is None else ledger.number,
        top1=item.top1,
        runners_up=item.runners_up,
        mark=item.mark,
        answer=interview.answers.get(item.id),
    )
