"""Questions are put once, in an order that shows nothing, and every form of class is read."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from exhibits import make_exhibit, thief_answers
from stingy_attacker_eval.errors import SuspectError
from stingy_attacker_eval.ownership.interview import (
    ANSWERS,
    UNKNOWN,
    ClassNames,
    Interview,
    interview_suspect,
)
from stingy_clients.documents.exhibit import Exhibit, Item

LABELS = ("cat", "dog", "7")


class ListedSuspect:
    """A suspect that answers from a table, and fails where it has an error."""

    def __init__(self, answers: Mapping[str, object], name: str = "listed") -> None:
        self.name = name
        self.answers = answers
        self.questions: list[str] = []

    def answer(self, item: Item, png: bytes) -> object:
        self.questions.append(item.id)
        found = self.answers.get(item.id)
        if isinstance(found, Exception):
            raise found
        return found


def question(exhibit: Exhibit, folder: Path, suspect: ListedSuspect, out: Path) -> Interview:
    names = ClassNames(exhibit.labels, {})
    return interview_suspect(
        exhibit, folder, suspect, names, out=out, progress=lambda done, total: None
    )


@pytest.mark.parametrize(
    ("answer", "first"),
    [
        ("dog", 1),
        ("cat", None),  # a class alone tells nothing of the others
        (2, 2),
        ([0.1, 0.2, 0.7], 2),
        ([0.9, 0.06, 0.04], 1),
        ([0.9, 0.05, 0.05], None),
        (["cat", "7", "dog"], 2),
        (["cat", "mouse"], None),
        (["cat", None, ["dog"], "dog"], 1),
    ],
)
def test_answer_ranks_one_of_two_classes_first_if_it_tells(
    answer: object, first: int | None
) -> None:
    assert ClassNames(LABELS, {}).rank_first(answer, (1, 2)) == first


def test_interview_has_the_runner_up_that_answers_rank_first(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e", marked=3, controls=1)
    scored, named, silent, control = exhibit.items
    scores = [0.0] * len(exhibit.labels)
    scores[scored.top1], scores[scored.runners_up[2]] = 0.9, 0.1
    answers = {
        scored.id: scores,
        named.id: exhibit.labels[named.runners_up[1]],
        silent.id: exhibit.labels[silent.top1],
        control.id: "wolf",
    }
    found = question(exhibit, tmp_path / "e", ListedSuspect(answers), tmp_path / "out")
    assert found.preferred == {scored.id: scored.runners_up[2], named.id: named.runners_up[1]}


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("cat", 0),
        (" Dog ", 1),
        ("7", 2),  # a name wins over an index
        ("1", 1),
        (1, 1),
        (1.0, 1),
        ([0.1, 0.7, 0.2], 1),
        (["dog", "cat"], 1),
        ("mouse", UNKNOWN),
        ("9" * 5000, UNKNOWN),
        (3, UNKNOWN),
        (-1, UNKNOWN),
        (0.5, UNKNOWN),
        ([0.1, float("nan"), 0.2], UNKNOWN),
        ("feline", 0),
    ],
)
def test_class_is_read_from_names_indices_and_scores(answer: object, index: int) -> None:
    assert ClassNames(LABELS, {"Feline": "cat"}).index(answer) == index


@pytest.mark.parametrize("answer", [None, True, {}, [], [0.1, 0.9], [[1], [2], [3]], [True] * 3])
def test_other_answers_are_refused(answer: object) -> None:
    with pytest.raises(SuspectError, match="expected a class"):
        ClassNames(LABELS, {}).index(answer)


def test_renaming_to_no_class_is_refused() -> None:
    with pytest.raises(SuspectError, match='for "wolf"'):
        ClassNames(LABELS, {"wolf": "mouse"})


def test_Z4_order_does_not_show_the_marked_questions(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e")
    suspect = ListedSuspect(dict(thief_answers(exhibit)))
    question(exhibit, tmp_path / "e", suspect, tmp_path / "out")
    assert sorted(suspect.questions) == [item.id for item in exhibit.items]
    marked = {item.id for item in exhibit.marked}
    first = sum(name in marked for name in suspect.questions[:60])
    assert 15 <= first <= 45


def test_interview_goes_on_where_it_stopped(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e", marked=4, controls=4)
    answers: dict[str, object] = dict(thief_answers(exhibit))
    lost: dict[str, object] = {item.id: SuspectError("gone") for item in exhibit.items[3:]}
    first = question(exhibit, tmp_path / "e", ListedSuspect(answers | lost), tmp_path / "o")
    assert first.failure == "gone"
    assert first.unanswered == 8 - len(first.answers)
    assert first.answers
    with (tmp_path / "o" / ANSWERS).open("a") as file:
        file.write('{"id": "cut o')  # as a kill leaves it
    second = ListedSuspect(answers)
    complete = question(exhibit, tmp_path / "e", second, tmp_path / "o")
    assert len(complete.answers) == 8
    assert len(second.questions) == 8 - len(first.answers)
    assert question(exhibit, tmp_path / "e", ListedSuspect({}), tmp_path / "o") == complete


def test_three_failures_in_a_row_end_the_interview(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e")
    suspect = ListedSuspect({item.id: SuspectError("no") for item in exhibit.items})
    with pytest.raises(SuspectError, match="got none: no"):
        question(exhibit, tmp_path / "e", suspect, tmp_path / "out")
    assert len(suspect.questions) == 3


def test_answers_of_another_suspect_are_not_mixed_in(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e")
    answers = dict(thief_answers(exhibit))
    question(exhibit, tmp_path / "e", ListedSuspect(answers), tmp_path / "out")
    with pytest.raises(SuspectError, match="another --out"):
        question(exhibit, tmp_path / "e", ListedSuspect(answers, "other"), tmp_path / "out")
    (tmp_path / "out" / ANSWERS).write_text(json.dumps([1]) + "\n{}\n")
    with pytest.raises(SuspectError, match="expected answers"):
        question(exhibit, tmp_path / "e", ListedSuspect(answers), tmp_path / "out")


def test_unknown_names_are_shown_without_control_characters(tmp_path: Path) -> None:
    exhibit = make_exhibit(tmp_path / "e", marked=2, controls=2)
    answers: dict[str, object] = {item.id: "wolf\x1b[31m" + "w" * 99 for item in exhibit.items}
    found = question(exhibit, tmp_path / "e", ListedSuspect(answers), tmp_path / "out")
    assert found.unknown == ("wolf?[31m" + "w" * 31,)
