"""Checks of identifiers, docstrings and test names, used by the lint and by its own tests.

Each check takes the source of a module and returns its faults as "LINE: TEXT".
"""

import ast
import re
from collections.abc import Iterator


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Verbs and their forms that are banned at any place of a name, in any case.
BANNED_WORDS = _words(
    "told tell tells ask asked learn learnt see seen hold stand standing standings "
    "climbed burnt settle steal"
)
# Words that are banned in class names. As lower-case words they are allowed.
BANNED_CLASS_WORDS = _words("Alone Together Visit Lane Gained Elsewhere Gathering Bought")
# Names that are banned as a whole, because their words are allowed (`class_means`).
BANNED_NAMES = _words("means Means KeptOracle SteadyOracle")
BANNED_METHODS = _words("again")

QUESTION_WORDS = _words("Who Whose Whoever What Whatever How Where Which Whether")
NOT_VERBS = _words(
    "A An The This That These Those It Its They Their We Our You Your One All Each Every Any No "
    "None Nothing Some Both Many Most As Like If For From With Without Of In On At By To Is Are "
    "Has True False"
)
# Imperatives that look like other forms of a verb.
IMPERATIVES = _words(
    "Bias Bring Embed Exceed Feed Focus Need Ping Proceed Ring Seed Shed Speed String"
)
MAX_TEST_NAME = 60


def banned_identifiers(source: str) -> list[str]:
    """Find the definitions, attributes and arguments whose name has a banned word."""
    faults: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        for name in _names_of(node):
            # A test's name is a sentence, which `long_test_names` checks.
            if name.startswith("test_"):
                continue
            is_method = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Attribute)
            if _is_banned(name) or (is_method and name.strip("_") in BANNED_METHODS):
                faults.setdefault(name, f"{getattr(node, 'lineno', 0)}: {name}")
    return list(faults.values())


def question_docstrings(source: str) -> list[str]:
    """Find the docstrings that open with a question word."""
    return [
        f"{line}: {docstring.splitlines()[0]}"
        for _, line, docstring in _docstrings(source)
        if _first_word(docstring) in QUESTION_WORDS
    ]


def noun_docstrings(source: str) -> list[str]:
    """Find the docstrings of public functions that cannot open with an imperative verb."""
    return [
        f"{line}: {docstring.splitlines()[0]}"
        for node, line, docstring in _docstrings(source)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not _is_property(node)
        and not _may_be_imperative(_first_word(docstring))
    ]


def long_test_names(source: str) -> list[str]:
    """Find the test functions whose name is too long."""
    return [
        f"{node.lineno}: {node.name} ({len(node.name)})"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name) > MAX_TEST_NAME
    ]


def _names_of(node: ast.AST) -> Iterator[str]:
    for field in ("name", "id", "attr", "arg", "asname"):
        value = getattr(node, field, None)
        if isinstance(value, str):
            yield value


def _is_banned(name: str) -> bool:
    # "told_at", "_toldAt", "TOLD_AT" and "package.told" all have the word "told".
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return (
        name.strip("_") in BANNED_NAMES
        or any(word.lower() in BANNED_WORDS for word in words)
        or any(word in BANNED_CLASS_WORDS for word in words)
    )


def _docstrings(source: str) -> Iterator[tuple[ast.AST, int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield node, getattr(node, "lineno", 1), docstring


def _first_word(docstring: str) -> str:
    match = re.match(r"[A-Za-z]+", docstring)
    return match[0] if match else ""


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Check whether a function is a property, whose docstring may be a noun."""
    return any(ast.unparse(d).endswith("property") for d in node.decorator_list)


def _may_be_imperative(word: str) -> bool:
    """Judge by the form alone: "Parses", "Parsed", "Parsing", "The" and "float32" are not."""
    if word in IMPERATIVES:
        return True
    looks_inflected = word.endswith(("ed", "ing")) or (word.endswith("s") and word[-2:] != "ss")
    return word[:1].isupper() and word not in NOT_VERBS | QUESTION_WORDS and not looks_inflected
