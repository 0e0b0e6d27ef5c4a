"""One broken part for each promise about marks that a check must catch."""

import os
from dataclasses import replace

import pytest

from marking import SECRET, assert_rate_is_exact, assert_swapped_rows_fail
from stingy_protection.marks import Choice, Chooser
from stingy_server.marks.evidence import Evidence, Sealer


class FirstRunnerUp(Chooser):
    """A choice that always puts the same runner-up first, as a list without a secret would."""

    def choose(self, model: str, code: bytes, *, num_classes: int) -> Choice:
        choice = super().choose(model, code, num_classes=num_classes)
        return replace(choice, place=1)


class SharedNumber(Chooser):
    """A choice that draws controls by the number of the marks, so that there are none."""

    def _number(self, label: str, model: bytes, code: bytes) -> int:
        return super()._number("mark" if label == "control" else label, model, code)


@pytest.mark.parametrize("broken", [FirstRunnerUp, SharedNumber])
def test_Y_choice_that_is_not_uniform_is_caught(broken: type[Chooser]) -> None:
    for chooser in (Chooser, broken):
        made = chooser(SECRET.value, share=0.05, runners_up=3)

        def choose(code: bytes, made: Chooser = made) -> Choice:
            return made.choose("digits", code, num_classes=10)

        if chooser is Chooser:
            assert_rate_is_exact(choose, share=0.05, digests=6_000)
        else:
            with pytest.raises(AssertionError):
                assert_rate_is_exact(choose, share=0.05, digests=6_000)


class RowlessSealer(Sealer):
    """An encryption that does not bind evidence to its row."""

    def seal(self, row: bytes, evidence: Evidence) -> bytes:
        return super().seal(b"", evidence)

    def open(self, row: bytes, sealed: bytes) -> Evidence:
        return super().open(b"", sealed)


def test_Y_encryption_that_ignores_its_row_is_caught() -> None:
    sealer = Sealer(SECRET, random=os.urandom)
    assert_swapped_rows_fail(sealer.seal, sealer.open)
    broken = RowlessSealer(SECRET, random=os.urandom)
    with pytest.raises(AssertionError):
        assert_swapped_rows_fail(broken.seal, broken.open)
