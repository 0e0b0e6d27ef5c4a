"""The registry of policies by name. Invariant: a policy is built, or every fault is listed."""

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from fractions import Fraction
from importlib.metadata import entry_points
from typing import Any, TypeAlias, get_type_hints

from stingy_protection.errors import PolicyConfigError
from stingy_protection.policies.base import Policy, is_integer
from stingy_protection.policies.buckets import ClassPrototype, RankedBuckets
from stingy_protection.policies.modelguard import ModelGuardW
from stingy_protection.policies.noise import KeyedNoise
from stingy_protection.policies.reverse_sigmoid import ReverseSigmoid
from stingy_protection.policies.top_n import (
    Label,
    Open,
    RankedLabels,
    Reversed,
    Rounded,
    Stingy,
    StingySmooth,
)

ENTRY_POINTS = "stingy.policies"
Ratio: TypeAlias = int | float | str | Fraction
# A policy's text comes from a file or a flag. These bound the work of reading it.
MAX_TEXT = 4096  # characters, of which the path of a file may need most
MAX_NUMBER_TEXT = 64  # characters of a ratio
MAX_EXPONENT = 99  # of a ratio, whose exact value has as many digits
MAX_NUMBER = 1e9  # of any other option
SHIPPED: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        ClassPrototype,
        KeyedNoise,
        Label,
        ModelGuardW,
        Open,
        RankedBuckets,
        RankedLabels,
        ReverseSigmoid,
        Reversed,
        Rounded,
        Stingy,
        StingySmooth,
    )
}


def support_size(num_classes: int, *, n: int | None = None, ratio: Ratio | None = None) -> int:
    """Compute N from N itself or from the sparse ratio r: max(1, floor(r K)).

    The arithmetic is exact: 0.29 of 100 is 29, and int(0.29 * 100) would be 28. If neither is
    given, r is 0.1, or 0.2 for 10 classes, as in the paper.

    Args:
        num_classes: K, the number of the model's classes, at least 2.
        n: N, 1..num_classes.
        ratio: r, 0 < r <= 1.

    Raises:
        PolicyConfigError: if an argument is out of range, or both n and ratio are given.
    """
    if not is_integer(num_classes) or num_classes < 2:
        raise PolicyConfigError((f"expected num_classes to be >= 2, got {num_classes!r}",))
    if n is not None and ratio is not None:
        raise PolicyConfigError(("expected either n or ratio, got both",))
    if n is not None:
        if not is_integer(n) or not 1 <= n <= num_classes:
            raise PolicyConfigError((f"expected n to be an integer 1..{num_classes}, got {n!r}",))
        return n
    if ratio is None:
        ratio = "0.2" if num_classes == 10 else "0.1"
    try:
        exact = _exact(str(ratio))
    except (ValueError, ZeroDivisionError):
        shown = repr(ratio[:MAX_NUMBER_TEXT]) if isinstance(ratio, str) else "another value"
        raise PolicyConfigError(
            (f"expected ratio to be a number of at most 64 characters, got {shown}",)
        ) from None
    if not 0 < exact <= 1:
        raise PolicyConfigError((f"expected 0 < ratio <= 1, got {ratio!r}",))
    return max(1, int(exact * num_classes))


def _exact(text: str) -> Fraction:
    """Return the exact value of a number. Raise ValueError or ZeroDivisionError if it is none."""
    _, _, exponent = text.lower().partition("e")
    if len(text) > MAX_NUMBER_TEXT or (exponent and abs(int(exponent)) > MAX_EXPONENT):
        raise ValueError
    return Fraction(text)


def policy_names() -> tuple[str, ...]:
    """List the names for `build_policy`: ours and those of the entry points `stingy.policies`."""
    return tuple(sorted({*SHIPPED, *entry_points(group=ENTRY_POINTS).names}))


def parse_policy(text: str) -> tuple[str, dict[str, str]]:
    """Split "stingy:n=3,scores=prob" into the name and its options.

    Raises:
        PolicyConfigError: if the text is not NAME or NAME:OPTION=VALUE,...
    """
    if len(text) > MAX_TEXT:
        raise PolicyConfigError(
            (f"expected a policy of at most {MAX_TEXT} characters, got {len(text)}",)
        )
    name, colon, rest = text.partition(":")
    faults: list[str] = []
    options: dict[str, str] = {}
    if not name.strip():
        faults.append(f"expected a policy as NAME:OPTION=VALUE,..., got {text!r}")
    for part in rest.split(",") if colon else ():
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not (option and equals and value):
            faults.append(f"expected OPTION=VALUE, got {part!r}")
        elif option in options:
            faults.append(f"option {option!r} is given twice")
        elif option == "num_classes":
            faults.append("num_classes comes from the model, not from the policy's text")
        options[option] = value
    if faults:
        raise PolicyConfigError(tuple(faults))
    return name.strip(), options


def build_policy(name: str, /, *, num_classes: int, **options: object) -> Policy:
    """Build the policy `name` for a model of `num_classes` classes.

    A policy with a field `n` also takes the option `ratio` instead. If neither is given, `n` is
    the default of `support_size`.

    Args:
        name: the name of the policy.
        num_classes: K, the number of the model's classes.
        options: the policy's fields. A string is converted to the field's type. If the field's
            metadata has the function `read`, that function converts the string.

    Raises:
        PolicyConfigError: if the policy or an option is unknown, or a value is bad or missing. It
            lists every fault.
    """
    policy_class = _find_class(name)
    kinds = {**get_type_hints(policy_class), "ratio": object}
    required = {field.name: _is_required(field) for field in fields(policy_class)}
    readers: dict[str, Callable[[str], object]] = {
        field.name: field.metadata["read"]
        for field in fields(policy_class)
        if "read" in field.metadata
    }
    takes_n = "n" in required
    known = {*required, *(["ratio"] if takes_n else [])} - {"num_classes"}

    faults: list[str] = []
    resolved: dict[str, Any] = {}
    for option, value in options.items():
        if option not in known:
            faults.append(f"unknown option {option!r} of {name}; known: {', '.join(sorted(known))}")
            continue
        try:
            if option in readers and isinstance(value, str):
                resolved[option] = readers[option](value)
            else:
                resolved[option] = _convert(value, kinds[option])
        except Exception:  # noqa: BLE001 - the reader of a plug-in may raise anything
            faults.append(f"expected {option} to be {_describe_type(kinds[option])}, got {value!r}")
    if takes_n:
        given = {option: resolved.pop(option, None) for option in ("n", "ratio")}
        try:
            resolved["n"] = support_size(num_classes, **given)
        except PolicyConfigError as error:
            faults += error.faults
            resolved["n"] = 1  # so that the other options are still checked
    resolved["num_classes"] = num_classes

    missing = [option for option in required if required[option] and option not in resolved]
    faults += [
        f"expected a value for {option}, got none" for option in missing if option not in options
    ]
    if not missing:
        try:
            policy = policy_class(**resolved)
        except PolicyConfigError as error:
            faults += error.faults
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            faults.append(f"the policy {name} failed: {type(error).__name__}")
    if faults:
        raise PolicyConfigError(tuple(dict.fromkeys(faults)))
    return policy


def _is_required(field: Field[object]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _find_class(name: str) -> type[Policy]:
    """Find the policy class of a name. Ours win a name clash. No other plug-in is imported."""
    if name in SHIPPED:
        return SHIPPED[name]
    found = entry_points(group=ENTRY_POINTS, name=name)
    if not found:
        known = ", ".join(policy_names())
        raise PolicyConfigError((f"unknown policy {name!r}; known: {known}",))
    try:
        loaded = next(iter(found)).load()
    except Exception as error:  # noqa: BLE001 - importing a plug-in may raise anything
        failure = type(error).__name__
        raise PolicyConfigError((f"the plug-in for policy {name!r} failed: {failure}",)) from None
    if not (isinstance(loaded, type) and issubclass(loaded, Policy)):
        raise PolicyConfigError((f"expected the plug-in {name!r} to be a Policy, got another",))
    if getattr(loaded, "name", None) != name:
        raise PolicyConfigError((f"expected the plug-in {name!r} to have that name, got another",))
    return loaded


def _convert(value: object, kind: object) -> object:
    """Convert a string to its field's type. The policy itself checks any other value.

    Raises:
        ValueError: if the string is not a value of that type.
    """
    if not isinstance(value, str) or not isinstance(kind, type):
        return value
    if kind is bool:
        if value not in ("true", "false"):
            raise ValueError
        return value == "true"
    if issubclass(kind, StrEnum):
        return kind(value)
    if issubclass(kind, int | float):
        number = kind(value)
        if not -MAX_NUMBER <= number <= MAX_NUMBER:  # true for NaN too
            raise ValueError
        return number
    return value


def _describe_type(kind: object) -> str:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return f"one of {', '.join(kind)}"
    names = {int: "an integer", float: "a number", bool: "true or false"}
    return next((name for known, name in names.items() if known is kind), "a valid value")
