"""The manifest of a bundle, `model.json`. Invariant: every field of a parsed manifest is valid."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from stingy_protection.bundles.preprocessing import Preprocessing, parse_preprocessing
from stingy_protection.bundles.rules import (
    MAX_CLASSES,
    MAX_TEXT,
    Rule,
    are_arguments,
    are_classes,
    find_faults,
    is_text,
    matches,
    one_of,
)
from stingy_protection.errors import BundleError, PolicyConfigError
from stingy_protection.files import read_regular_file
from stingy_protection.policies.registry import build_policy, parse_policy

MANIFEST_FILE = "model.json"
MAX_MANIFEST_BYTES = 16 * 2**20
FORMAT = 2  # the one that is written. A manifest without a number has format 1, of release 0.1.0

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
Weights = Literal["safetensors", "onnx"]
Outputs = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class BundleManifest:
    """The content of `model.json`.

    Args:
        name: [a-z0-9][a-z0-9._-]*, the name under which the model is served.
        version: one word of letters, digits, dot, plus, dash and underscore.
        classes: the K labels, all different, by index.
        preprocessing: the way from an image to the model's input.
        policy: the text of the policy, such as "stingy:n=3,scores=prob".
        factory: "package.module:callable", the function that builds the `nn.Module`. Empty if
            `weights` is not "safetensors".
        arguments: keyword arguments of the factory: JSON scalars, lists and objects.
        sha256: the hash of the weights file, 64 lower-case hex digits. It may be empty if `weights`
            is None.
        weights: "safetensors" for a factory's weights, "onnx" for a program that ONNX Runtime
            runs, None if another server runs the model.
        outputs: "logits", or "probabilities" for a model whose last step is a softmax. The logits
            are then their logarithms.
        source: a note of where the model comes from, such as a framework with its version.
    """

    name: str
    version: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    policy: str
    factory: str = ""
    arguments: dict[str, Json] = field(default_factory=dict)
    sha256: str = ""
    weights: Weights | None = "safetensors"
    outputs: Outputs = "logits"
    source: str = ""


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
    """Parse the text of a `model.json` of format 1 or 2.

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
    format = raw.pop("format", 1)
    if type(format) is not int or format not in (1, FORMAT):
        raise BundleError(
            (f"expected format {FORMAT} of {MANIFEST_FILE}, got another; it needs another Stingy",)
        )
    rules, optional = _choose_rules(raw, format=format)
    faults = find_faults(raw, rules, optional=optional)
    preprocessing = None
    if isinstance(raw.get("preprocessing"), dict):
        preprocessing, image_faults = parse_preprocessing(raw["preprocessing"], format=format)
        faults += image_faults
    if are_classes(raw.get("classes")) and isinstance(raw.get("policy"), str):
        faults += _find_policy_faults(raw["policy"], len(raw["classes"]))
    if faults or preprocessing is None:
        raise BundleError(tuple(faults))
    return BundleManifest(
        **{**raw, "classes": tuple(raw["classes"]), "preprocessing": preprocessing}
    )


def format_manifest(manifest: BundleManifest) -> dict[str, Any]:
    """Return the fields of a manifest in format 2, as JSON values.

    Fields that this kind of weights does not have are left out.
    """
    fields = {"format": FORMAT, **asdict(manifest)}
    if manifest.weights != "safetensors":
        del fields["factory"], fields["arguments"]
    if not manifest.sha256:
        del fields["sha256"]
    return fields


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _choose_rules(raw: dict[str, Any], *, format: int) -> tuple[dict[str, Rule], frozenset[str]]:
    """Return the rules of a manifest's fields, and the fields that may be missing."""
    if format == 1:
        return _COMMON_RULES | _FACTORY_RULES | _SHA256_RULE, frozenset()
    rules = _COMMON_RULES | _FORMAT_2_RULES
    optional = frozenset({"outputs", "source"})
    if raw.get("weights", "safetensors") == "safetensors":
        rules = rules | _FACTORY_RULES
    if raw.get("weights", "safetensors") is None:
        optional |= {"sha256"}
    return rules | _SHA256_RULE, optional


def _find_policy_faults(text: str, num_classes: int) -> list[str]:
    try:
        name, options = parse_policy(text)
        build_policy(name, num_classes=num_classes, **options)
    except PolicyConfigError as error:
        return [f"policy: {fault}" for fault in error.faults]
    return []


_COMMON_RULES: dict[str, Rule] = {
    "name": (matches(r"[a-z0-9][a-z0-9._-]{0,127}"), "[a-z0-9][a-z0-9._-]*, up to 128 long"),
    "version": (matches(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"), "one word such as 1.0.0"),
    "classes": (are_classes, f"a list of 2..{MAX_CLASSES} different labels"),
    "preprocessing": (lambda value: isinstance(value, dict), "an object"),
    "policy": (lambda value: isinstance(value, str), "a string such as stingy:n=3"),
}
_FACTORY_RULES: dict[str, Rule] = {
    "factory": (
        matches(r"(?=.{1,512}$)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"),
        "package.module:callable",
    ),
    "arguments": (are_arguments, "an object of short JSON scalars, lists and objects"),
}
_SHA256_RULE: dict[str, Rule] = {
    "sha256": (matches(r"[0-9a-f]{64}"), "64 lower-case hex digits"),
}
_FORMAT_2_RULES: dict[str, Rule] = {
    "weights": one_of(*get_args(Weights), None),
    "outputs": one_of(*get_args(Outputs)),
    "source": (is_text, f"a text of up to {MAX_TEXT} characters"),
}
