"""The questions to a suspect: every image of the exhibit once, in an order that shows nothing.

Invariant: an answer that was given is kept, so no question is put twice.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stingy_attacker_eval.errors import SuspectError
from stingy_attacker_eval.files import lock_folder
from stingy_attacker_eval.ownership.suspects import Suspect
from stingy_clients.documents.exhibit import Exhibit, Item, read_image

ANSWERS = "answers.jsonl"
UNKNOWN = -1
"""The class of an answer that names no class of the exhibit."""

_FAILURES_IN_A_ROW = 3
_DIGITS = 9  # of an index
_SHOWN = 40  # characters of a suspect's text in a sentence


@dataclass(frozen=True)
class Interview:
    """The answers of a suspect.

    answers: the class of each answered item, by id; UNKNOWN if it is no class of the exhibit.
    preferred: the runner-up that an answer ranks first, by id, for the answers that tell.
    unknown: some names that are no class of the exhibit.
    failure: why the interview ended early; None if it is complete.
    """

    answers: Mapping[str, int]
    preferred: Mapping[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    failure: str | None = None
    unanswered: int = 0


class ClassNames:
    """The exhibit's classes by the names that a suspect uses for them.

    labels: the exhibit's classes, by index.
    renamed: the exhibit's class for each name of the suspect that differs.

    Raises SuspectError if a name of `renamed` stands for no class of the exhibit.
    """

    def __init__(self, labels: tuple[str, ...], renamed: Mapping[str, str]) -> None:
        self._count = len(labels)
        self._indices = {label.strip().casefold(): index for index, label in enumerate(labels)}
        faults = []
        for name, label in renamed.items():
            index = self._indices.get(label.strip().casefold())
            if index is None:
                faults.append(f'expected a class of the exhibit for "{_shown(name)}", got another')
                continue
            self._indices[name.strip().casefold()] = index
        if faults:
            raise SuspectError(*faults)

    def index(self, answer: object) -> int:
        """Return the class of an answer; UNKNOWN if it is none of the exhibit's.

        answer: a name, an index, the scores of all classes, or names, best first.

        Raises SuspectError if it is something else.
        """
        if isinstance(answer, str):
            text = answer.strip().casefold()
            if text in self._indices:
                return self._indices[text]
            number = text.isascii() and text.isdigit() and len(text) <= _DIGITS
            return self._check(int(text)) if number else UNKNOWN
        if isinstance(answer, bool) or answer is None or isinstance(answer, dict):
            raise SuspectError(f"expected a class as an answer, got {type(answer).__name__}")
        if isinstance(answer, int | float):
            return self._check(int(answer)) if float(answer).is_integer() else UNKNOWN
        if isinstance(answer, list) and answer and isinstance(answer[0], str):
            return self.index(answer[0])
        numbers = isinstance(answer, list) and all(
            isinstance(score, int | float) and not isinstance(score, bool) for score in answer
        )
        if not numbers or len(answer) != self._count:  # type: ignore[arg-type]
            got = f"{len(answer)} values" if isinstance(answer, list) else type(answer).__name__
            raise SuspectError(f"expected a class, or {self._count} scores, got {got}")
        scores: NDArray[np.float64] = np.asarray(answer, np.float64)
        return UNKNOWN if np.isnan(scores).any() else int(scores.argmax())

    def rank_first(self, answer: object, classes: Sequence[int]) -> int | None:
        """Return the class, of some, that an answer ranks first; None if it does not tell.

        A single class tells only of itself. Names, best first, tell of the first of them that is
        one of `classes`. Equal scores do not tell.

        answer: as for `index`, which accepts it.
        """
        if isinstance(answer, list) and not isinstance(answer[0], str):
            scores = [float(answer[index]) for index in classes]
            best = max(scores)
            return classes[scores.index(best)] if scores.count(best) == 1 else None
        named = answer if isinstance(answer, list) else [answer]
        found = (self.index(name) for name in named if isinstance(name, str | int | float))
        return next((index for index in found if index in classes), None)

    def _check(self, index: int) -> int:
        return index if 0 <= index < self._count else UNKNOWN


def interview_suspect(
    exhibit: Exhibit,
    folder: Path,
    suspect: Suspect,
    names: ClassNames,
    *,
    out: Path,
    progress: Callable[[int, int], None],
) -> Interview:
    """Put every question that has no answer yet, and return all answers.

    The order is shuffled, so that a suspect does not learn which questions are marked. After three
    failures in a row the interview ends; another call goes on.

    folder: the exhibit's.
    out: where answers are kept, in `answers.jsonl`.
    progress: called with the questions put and those of the exhibit.

    Raises SuspectError if the suspect gave no answer at all, or `out` has answers to another
    exhibit or of another suspect.
    """
    with lock_folder(out):
        kept = _read_kept(out / ANSWERS, exhibit, suspect)
        answers = dict(kept)
        failure, failures, unanswered = None, 0, 0
        with (out / ANSWERS).open("a", encoding="utf-8") as file:
            if not kept:
                file.truncate(0)
                _append(file.write, {"exhibit": exhibit.digest, "suspect": suspect.name})
            for number, item in enumerate(_shuffle(exhibit), 1):
                if item.id in answers:
                    continue
                try:
                    answer = suspect.answer(item, read_image(folder, item))
                    if answer is None:
                        unanswered += 1
                        continue
                    names.index(answer)
                except SuspectError as error:
                    failure, failures, unanswered = str(error), failures + 1, unanswered + 1
                    if failures == _FAILURES_IN_A_ROW:
                        break
                    continue
                failures = 0
                answers[item.id] = answer
                _append(file.write, {"id": item.id, "answer": answer})
                file.flush()
                progress(number, len(exhibit.items))
    if not answers:
        raise SuspectError(
            f"expected answers from the suspect, got none: {failure or 'no id fits'}"
        )
    classes = {item: names.index(answer) for item, answer in answers.items()}
    unknown = {_shown(str(answers[item])) for item, index in classes.items() if index == UNKNOWN}
    first = {
        item.id: names.rank_first(answers[item.id], item.runners_up)
        for item in exhibit.items
        if classes.get(item.id, UNKNOWN) != UNKNOWN
    }
    return Interview(
        classes,
        {item: index for item, index in first.items() if index is not None},
        tuple(sorted(unknown)[:3]),
        failure,
        len(exhibit.items) - len(answers),
    )


def _shuffle(exhibit: Exhibit) -> list[Item]:
    items = list(exhibit.items)
    random.Random(exhibit.digest).shuffle(items)  # noqa: S311 - no secret depends on it
    return items


def _read_kept(path: Path, exhibit: Exhibit, suspect: Suspect) -> dict[str, object]:
    """Read the answers of an earlier call. A last line that a kill cut off is left out."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    whole = [line for line in lines if line.endswith(b"\n")]
    if len(whole) < len(lines):
        path.write_bytes(b"".join(whole))
    if not whole:
        return {}
    try:
        head, *rows = [json.loads(line) for line in whole]
        kept = {str(row["id"]): row["answer"] for row in rows}
    except (ValueError, TypeError, KeyError):
        raise SuspectError(f"expected answers in {path}, got another file") from None
    if head != {"exhibit": exhibit.digest, "suspect": suspect.name}:
        raise SuspectError(
            f"expected answers of this suspect to this exhibit in {path}, got others: choose "
            "another --out"
        )
    known = {item.id for item in exhibit.items}
    return {item: answer for item, answer in kept.items() if item in known}


def _append(write: Callable[[str], object], row: Mapping[str, object]) -> None:
    write(json.dumps(row, ensure_ascii=False) + "\n")


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:_SHOWN])
