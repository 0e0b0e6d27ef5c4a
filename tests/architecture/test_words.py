"""The lint of words: identifiers, the first words of docstrings, the length of test names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from style_checks import (
    banned_identifiers,
    long_test_names,
    noun_docstrings,
    question_docstrings,
)

ROOT = Path(__file__).parents[2]
FOLDERS = ("attacker_eval", "benchmarks", "clients", "docs", "protection", "server", "tests")
Check = Callable[[str], list[str]]


def checked_modules() -> list[Path]:
    """List the Python modules of all folders."""
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize(
    "check",
    [banned_identifiers, question_docstrings, noun_docstrings, long_test_names],
    ids=lambda check: check.__name__,
)
def test_modules_have_no_faults_of_words(check: Check) -> None:
    modules = checked_modules()
    assert len(modules) > 30
    faults = [
        f"{path.relative_to(ROOT)}:{fault}"
        for path in modules
        for fault in check(path.read_text(encoding="utf-8"))
    ]
    assert not faults, f"{check.__name__}:\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (banned_identifiers, "told = 1"),
        (banned_identifiers, "def _ask_server(): ..."),
        (banned_identifiers, "async def fetch(*, labels_seen): ..."),
        (banned_identifiers, "fetch(hold=1)"),
        (banned_identifiers, "self.steal(1)"),
        (banned_identifiers, "TOLD_AT = 1"),
        (banned_identifiers, "class VisitRecord: ..."),
        (banned_identifiers, "class KeptOracle: ..."),
        (banned_identifiers, "_means = 1"),
        (banned_identifiers, "database.again()"),
        (banned_identifiers, "from scores import told as formatted"),
        (question_docstrings, '"""What a policy is."""'),
        (question_docstrings, 'class A:\n    """Whoever waits."""'),
        (question_docstrings, 'def _f():\n    """How many.\n\n    More.\n    """'),
        (noun_docstrings, 'def f():\n    """The answer."""'),
        (noun_docstrings, 'async def f():\n    """Returns it."""'),
        (noun_docstrings, 'def f():\n    """Rounded to the grid."""'),
        (noun_docstrings, 'def f():\n    """float32 `[batch]`."""'),
        (long_test_names, f"def test_{'x' * 56}(): ..."),
    ],
)
def test_a_fault_of_words_is_found(check: Check, source: str) -> None:
    assert len(check(source)) == 1


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (banned_identifiers, "class_means = together = threshold = task = again = 1"),
        (banned_identifiers, '"""Told."""\n# told\nvalue = "told"'),
        (banned_identifiers, "def test_twins_cannot_be_told_apart(): ..."),
        (question_docstrings, 'def f():\n    """Whole rows."""'),
        (noun_docstrings, 'def f():\n    """Process a batch."""\ndef g():\n    """Feed it."""'),
        (noun_docstrings, 'class A:\n    @property\n    def b(self):\n        """The rows."""'),
        (noun_docstrings, 'def _f():\n    """The rows."""'),
        (long_test_names, f"def test_{'x' * 55}(): ..."),
    ],
)
def test_correct_words_are_not_a_fault(check: Check, source: str) -> None:
    assert check(source) == []
