"""The rows of a study: one for each student, complete enough to count everything again."""

from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from stingy_attacker_eval.errors import StudyError
from stingy_attacker_eval.files import write_atomic
from stingy_attacker_eval.mark_study.marking import Items
from stingy_attacker_eval.ownership.statistics import MatchTest, count_matches
from stingy_attacker_eval.report_schema import Document

Bools = NDArray[np.bool_]
Int64 = NDArray[np.int64]

_MARK, _OTHER, _OWN, _ELSE = "mrto"  # the mark, another runner-up, the teacher's top-1, another


class ThiefRow(Document):
    """A thief's student, judged by the marked inputs of its key.

    Attributes:
        accuracy: percent of the test images.
        agreement: percent of the test images on which it has the teacher's class.
        answers: one letter for each marked input: "m" if the student's class is the mark, "r" if it
            is another runner-up, "t" if it is the teacher's top-1, "o" otherwise.
        preferred: one digit for each marked input: 1 if the mark is the runner-up that the student
            scores highest, else 0.
        placebo: as `answers`, for the controls and the marks that nobody got.
        runners_up: m.
    """

    kind: Literal["thief"] = "thief"
    seed: int
    student: str
    share: float
    accuracy: float
    agreement: float
    queries: int
    answers: str
    preferred: str
    placebo: str
    runners_up: int
    seconds: float
    finite: bool

    def test(self) -> MatchTest:
        """Return the test of the marked inputs."""
        return judge_letters(self.answers, self.runners_up)


class Accusations(Document):
    """The p-values of one innocent under other secrets, for one share.

    Attributes:
        tried: the secrets.
        judged: the secrets under which there is enough evidence for a p-value.
        at_most: the secrets with a p-value of at most each level.
        preferred: the same for the test of all runners-up in the student's order.
    """

    share: float
    tried: int
    judged: int
    at_most: dict[str, int]
    preferred: dict[str, int]


class InnocentRow(Document):
    """A student that was trained without marked answers.

    Attributes:
        data: "owned" for the thief's images with true labels, "other" for other images with true
            labels, "honest" for the answers that an honest key gets.
    """

    kind: Literal["innocent"] = "innocent"
    seed: int
    student: str
    data: Literal["owned", "other", "honest"]
    accuracy: float
    agreement: float
    accusations: tuple[Accusations, ...]
    seconds: float
    finite: bool


class EndpointRow(Document):
    """The endpoint of a seed, and the cost of the marks for a marked key.

    Attributes:
        accuracy: percent of the test images, of an honest key's answers.
        marked_accuracy: the same of a marked key's answers, by share.
        marked_share: the share of the thief's images that is marked, by share.
        distinct: the thief's images with distinct coarse pixels.
    """

    kind: Literal["endpoint"] = "endpoint"
    seed: int
    accuracy: float
    marked_accuracy: dict[str, float]
    marked_share: dict[str, float]
    distinct: int
    seconds: float


class OrderNumbers(Document):
    """The numbers of an `OrderTest`."""

    z: float
    p_value: float


class OrderRow(Document):
    """A student judged by a secret order of the runners-up.

    Attributes:
        data: "thief" if it was trained on lists in that order, else "innocent".
        teacher: the test of its margins over the teacher's.
        references: the test of its margins over those of innocents, itself not among them.
    """

    kind: Literal["order"] = "order"
    seed: int
    student: str
    data: Literal["thief", "innocent"]
    accuracy: float
    teacher: OrderNumbers
    references: OrderNumbers
    seconds: float
    finite: bool


AnyRow: TypeAlias = ThiefRow | InnocentRow | EndpointRow | OrderRow


class Row(Document):
    """A line of `rows.jsonl`."""

    row: AnyRow = Field(discriminator="kind")


LEVELS = (0.1, 0.05, 0.01, 0.001)


def letters_of(items: Items, classes: Int64, marked: bool) -> str:
    """Return a letter for each marked input, or for each control; see `ThiefRow`.

    classes: the student's, int64 `[q]`.
    """
    marks = items.runners_up[np.arange(len(items)), items.places]
    among = (items.runners_up == classes[:, None]).any(axis=1)
    letters = np.where(classes == items.top1, _OWN, _ELSE)
    letters = np.where(among, _OTHER, letters)
    letters = np.where(classes == marks, _MARK, letters)
    return "".join(letters[items.marked == marked])


def judge_letters(letters: str, runners_up: int) -> MatchTest:
    """Return the test of letters as in `ThiefRow`."""
    array = np.array(list(letters), "U1")
    matched = array == _MARK
    places = np.full(len(array), runners_up, np.int64)
    return count_matches(matched, matched | (array == _OTHER), places)


def judge_preferred(digits: str, runners_up: int) -> MatchTest:
    """Return the test in which every input counts: the student's best runner-up is the mark."""
    matched = np.array(list(digits), "U1") == "1"
    places = np.full(len(matched), runners_up, np.int64)
    return count_matches(matched, np.ones(len(matched), bool), places)


def drop_cut_line(path: Path) -> None:
    """Drop a last line that a kill cut off, so that the next row begins a line."""
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            write_atomic(path, whole)


def read_rows(path: Path) -> list[AnyRow]:
    """Read the rows of a file; none if there is no file. A last line that is cut off is left out.

    Raises StudyError if a line is no row.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    try:
        return [
            Row.model_validate_json(b'{"row":' + line + b"}").row
            for line in lines
            if line.endswith(b"\n")
        ]
    except ValidationError:
        raise StudyError(f"expected rows of a study in {path}, got another file") from None
