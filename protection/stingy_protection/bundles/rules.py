"""Checks of values that were read from JSON. Every number and every text has bounds."""

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from stingy_protection.policies.base import is_integer

MAX_SIDE = 4096  # pixels of an image's side, so that one image has at most 16 million
MAX_CLASSES = 100_000
MAX_TEXT = 1024  # characters of a label, of an argument or of its name, and of the source
MAX_NUMBER = 2**53  # of an argument: all integers up to it are exact in JSON
MAX_SCALE = 1e6  # of mean and std, which are about 1
MAX_DEPTH = 8  # of lists and objects in an argument
MAX_ARGUMENTS = 10_000  # values in all arguments together

# A check of a field and the words for what it expects. Values come from JSON, hence Any.
Rule: TypeAlias = tuple[Callable[[Any], bool], str]


def find_faults(
    raw: dict[str, Any], rules: dict[str, Rule], *, optional: frozenset[str], prefix: str = ""
) -> list[str]:
    """Return the faults of an object: unknown fields, missing ones, and wrong values.

    Args:
        raw: the object.
        rules: the rule of each field that the object may have.
        optional: the fields that may be missing.
        prefix: the place of the object, such as "preprocessing.".
    """
    unknown = [f"unknown field {prefix}{name[:64]}" for name in raw if name not in rules]
    missing = [
        f"missing field {prefix}{name}"
        for name in rules
        if name not in raw and name not in optional
    ]
    wrong = [
        f"expected {prefix}{name} to be {expected}, got another value"
        for name, (is_valid, expected) in rules.items()
        if name in raw and not is_valid(raw[name])
    ]
    return unknown + missing + wrong


def matches(pattern: str) -> Callable[[Any], bool]:
    """Return a check for texts that match a pattern as a whole."""
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def one_of(*values: object) -> Rule:
    """Return the rule for one of a few values, each of its own type."""
    names = ", ".join("null" if value is None else str(value) for value in values)
    return (
        lambda found: any(type(found) is type(value) and found == value for value in values)
    ), f"one of {names}"


def is_number(value: Any, low: float, high: float) -> bool:
    """Return true for a number of low..high, and false for NaN and for a bool."""
    return (is_integer(value) or isinstance(value, float)) and low <= value <= high


def is_pixels(value: Any) -> bool:
    """Return true for the number of pixels of an image's side."""
    return is_integer(value) and 1 <= value <= MAX_SIDE


def is_text(value: Any) -> bool:
    """Return true for a short text that has a form in UTF-8, so no half of a surrogate pair."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_list(value: Any, of: Callable[[Any], bool], length: int) -> bool:
    """Return true for a list of so many valid items."""
    return isinstance(value, list) and len(value) == length and all(of(item) for item in value)


def are_arguments(value: Any) -> bool:
    """Return true for an object of short scalars, lists and objects, of bounded depth and size."""
    if not isinstance(value, dict):
        return False
    level: list[Any] = [value]
    count = 0
    for depth in range(MAX_DEPTH + 2):
        containers = [item for item in level if isinstance(item, dict | list)]
        scalars = [item for item in level if not isinstance(item, dict | list)]
        names = [name for each in containers if isinstance(each, dict) for name in each]
        count += len(level)
        if count > MAX_ARGUMENTS or (containers and depth > MAX_DEPTH):
            return False
        if not (all(map(_is_scalar, scalars)) and all(map(is_text, names))):
            return False
        level = [
            item
            for each in containers
            for item in (each.values() if isinstance(each, dict) else each)
        ]
    return True


def are_classes(value: Any) -> bool:
    """Return true for a list of labels that are all different and none of them empty."""
    return (
        isinstance(value, list)
        and 2 <= len(value) <= MAX_CLASSES
        and all(is_text(label) and label.strip() for label in value)
        and len(set(value)) == len(value)
    )


def _is_scalar(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, bool)
        or is_text(value)
        or is_number(value, -MAX_NUMBER, MAX_NUMBER)
    )
