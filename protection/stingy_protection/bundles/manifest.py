"""The manifest of a bundle, `model.json`. Invariant: every field of a parsed manifest is valid."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from stingy_protection.errors import BundleError, PolicyConfigError
from stingy_protection.files import read_regular_file
from stingy_protection.policies.base import is_integer
from stingy_protection.policies.registry import build_policy, parse_policy

MANIFEST_FILE = "model.json"
MAX_MANIFEST_BYTES = 16 * 2**20

MAX_SIDE = 4096  # pixels of an image's side, so that one image has at most 16 million
MAX_CLASSES = 100_000
MAX_TEXT = 1024  # characters of a label or of an argument
MAX_NUMBER = 2**53  # of an argument: all integers up to it are exact in JSON
MAX_SCALE = 1e6  # of mean and std, which are about 1
MAX_DEPTH = 8  # of lists in an argument
MAX_ARGUMENTS = 10_000  # values in all arguments together

Json: TypeAlias = "str | int | float | bool | list[Json] | None"


@dataclass(frozen=True)
class Preprocessing:
    """The way from an RGB uint8 image to the model's input.

    The input is (x / 255 - `mean`) / `std`. With `resize_shorter`, the shorter side is resized to
    it (bilinear, antialias) and the centre is cropped to `size`. Without, the image is resized to
    `size`.

    Args:
        size: (height, width) in pixels, each 1..4096.
        mean: one value per channel, of x / 255, -1e6..1e6.
        std: one value per channel, 1e-6..1e6.
        resize_shorter: pixels, from the larger side of `size` to 4096. None resizes to `size`.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_shorter: int | None = None


@dataclass(frozen=True)
class BundleManifest:
    """The content of `model.json`.

    Args:
        name: [a-z0-9][a-z0-9._-]*, the name under which the model is served.
        version: one word of letters, digits, dot, plus, dash and underscore.
        factory: "package.module:callable", the function that builds the `nn.Module`.
        arguments: keyword arguments of the factory: JSON scalars and lists.
        classes: the K labels, all different, by index.
        preprocessing: the way from an image to the model's input.
        policy: the text of the policy, such as "stingy:n=3,scores=prob".
        sha256: the hash of the weights file, 64 lower-case hex digits.
    """

    name: str
    version: str
    factory: str
    arguments: dict[str, Json]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    policy: str
    sha256: str


def read_manifest_file(folder: str | os.PathLike[str]) -> str:
    """Read the text of a folder's `model.json`.

    Raises:
        BundleError: if it is no regular file, is too large, or is not UTF-8.
    """
    try:
        path = Path(folder) / MANIFEST_FILE
        return read_regular_file(path, max_bytes=MAX_MANIFEST_BYTES).decode()
    except OSError:
        raise BundleError((f"expected {MANIFEST_FILE} to be readable, got another file",)) from None
    except UnicodeDecodeError:
        raise BundleError((f"expected {MANIFEST_FILE} to be UTF-8, got other bytes",)) from None


def parse_manifest(text: str) -> BundleManifest:
    """Parse the text of a `model.json`.

    Raises:
        BundleError: if there are missing or unknown fields, wrong values, or a policy that does
            not fit the classes. It lists every fault.
    """
    try:
        raw = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BundleError((f"expected {MANIFEST_FILE} to be JSON, got another text",)) from None
    if not isinstance(raw, dict):
        raise BundleError((f"expected {MANIFEST_FILE} to be a JSON object, got another value",))
    faults = _find_faults(raw, _MANIFEST_RULES, "")
    image = raw.get("preprocessing")
    if isinstance(image, dict):
        image.setdefault("resize_shorter", None)
        image_faults = _find_faults(image, _PREPROCESSING_RULES, "preprocessing.")
        shorter = image["resize_shorter"]
        if not image_faults and shorter is not None and shorter < max(image["size"]):
            image_faults = ["expected preprocessing.resize_shorter >= size, got less"]
        faults += image_faults
    if _are_classes(raw.get("classes")) and isinstance(raw.get("policy"), str):
        faults += _find_policy_faults(raw["policy"], len(raw["classes"]))
    if faults:
        raise BundleError(tuple(faults))
    preprocessing = Preprocessing(
        size=tuple(raw["preprocessing"]["size"]),
        mean=tuple(raw["preprocessing"]["mean"]),
        std=tuple(raw["preprocessing"]["std"]),
        resize_shorter=raw["preprocessing"]["resize_shorter"],
    )
    fields = {**raw, "classes": tuple(raw["classes"]), "preprocessing": preprocessing}
    return BundleManifest(**fields)


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _find_policy_faults(text: str, num_classes: int) -> list[str]:
    try:
        name, options = parse_policy(text)
        build_policy(name, num_classes=num_classes, **options)
    except PolicyConfigError as error:
        return [f"policy: {fault}" for fault in error.faults]
    return []


# A check of a field and the words for what it expects. Values come from JSON, hence Any.
Rule: TypeAlias = tuple[Callable[[Any], bool], str]


def _find_faults(raw: dict[str, Any], rules: dict[str, Rule], prefix: str) -> list[str]:
    unknown = [f"unknown field {prefix}{name}" for name in raw if name not in rules]
    missing = [f"missing field {prefix}{name}" for name in rules if name not in raw]
    wrong = [
        f"expected {prefix}{name} to be {expected}, got another value"
        for name, (is_valid, expected) in rules.items()
        if name in raw and not is_valid(raw[name])
    ]
    return unknown + missing + wrong


def _matches(pattern: str) -> Callable[[Any], bool]:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _is_number(value: Any, low: float, high: float) -> bool:
    return (is_integer(value) or isinstance(value, float)) and low <= value <= high


def _is_pixels(value: Any) -> bool:
    return is_integer(value) and 1 <= value <= MAX_SIDE


def _is_text(value: Any) -> bool:
    """Check for a short text that has a form in UTF-8, so no half of a surrogate pair."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_scalar(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, bool)
        or _is_text(value)
        or _is_number(value, -MAX_NUMBER, MAX_NUMBER)
    )


def _is_list(value: Any, of: Callable[[Any], bool], length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(of(item) for item in value)


def _are_arguments(value: Any) -> bool:
    if not isinstance(value, dict) or not all(map(_is_text, value)):
        return False
    level, count = list(value.values()), 0
    for _ in range(MAX_DEPTH + 1):
        count += len(level)
        if count > MAX_ARGUMENTS:
            return False
        lists = [item for item in level if isinstance(item, list)]
        if not all(isinstance(item, list) or _is_scalar(item) for item in level):
            return False
        level = [item for each in lists for item in each]
    return not lists


def _are_classes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 2 <= len(value) <= MAX_CLASSES
        and all(_is_text(label) and label.strip() for label in value)
        and len(set(value)) == len(value)
    )


_MANIFEST_RULES: dict[str, Rule] = {
    "name": (_matches(r"[a-z0-9][a-z0-9._-]{0,127}"), "[a-z0-9][a-z0-9._-]*, up to 128 long"),
    "version": (_matches(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"), "one word such as 1.0.0"),
    "factory": (
        _matches(r"(?=.{1,512}$)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"),
        "package.module:callable",
    ),
    "arguments": (_are_arguments, "an object of short JSON scalars and lists"),
    "classes": (_are_classes, f"a list of 2..{MAX_CLASSES} different labels"),
    "preprocessing": (lambda value: isinstance(value, dict), "an object"),
    "policy": (lambda value: isinstance(value, str), "a string such as stingy:n=3"),
    "sha256": (_matches(r"[0-9a-f]{64}"), "64 lower-case hex digits"),
}
_PREPROCESSING_RULES: dict[str, Rule] = {
    "size": (lambda value: _is_list(value, _is_pixels, 2), f"[height, width], 1..{MAX_SIDE}"),
    "mean": (
        lambda value: _is_list(value, lambda item: _is_number(item, -MAX_SCALE, MAX_SCALE), 3),
        f"3 numbers of -{MAX_SCALE:g}..{MAX_SCALE:g}",
    ),
    "std": (
        lambda value: _is_list(value, lambda item: _is_number(item, 1 / MAX_SCALE, MAX_SCALE), 3),
        f"3 numbers of {1 / MAX_SCALE:g}..{MAX_SCALE:g}",
    ),
    "resize_shorter": (
        lambda value: value is None or _is_pixels(value),
        f"1..{MAX_SIDE} pixels or null",
    ),
}
