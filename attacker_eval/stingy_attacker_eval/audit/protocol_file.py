"""Protocols read from TOML. One that loads can be run to its end; another names all its faults."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.protocol_faults import combination_faults
from stingy_attacker_eval.errors import ProtocolError

MAX_FILE_BYTES = 2**20

_NEUTRAL: Mapping[str, object] = {
    "title": "none",
    "dataset": "none",
    "budget": 2**62,
    "epochs": 1,
    "endpoints": [],
    "attacks": [],
    "attackers": [],
    "students": [],
    "seeds": [],
}
"""A value for each field of which no value would be a fault of others, too."""

_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "{ge} or more",
    "int_from_float": "an integer",
    "int_type": "an integer",
    "less_than": "a number below {lt}",
    "less_than_equal": "{le} or less",
    "model_attributes_type": "a table",
    "model_type": "a table",
    "string_pattern_mismatch": "text of the form {pattern}",
    "string_too_short": "text that is not empty",
    "string_type": "text",
    "tuple_type": "a list",
}
"""The expected value, by the type of pydantic's error."""

_SHOWN = 40


def parse_protocol(text: str) -> Protocol:
    """Parse a protocol from TOML, without a query.

    Raises ProtocolError, which names all faults, if it cannot be run.
    """
    try:
        document = tomllib.loads(text)
        content = _as_json(document)
    except tomllib.TOMLDecodeError as error:
        raise ProtocolError(f"expected TOML, got a file that is not: {error}") from None
    except RecursionError:
        raise ProtocolError("expected TOML of shallow lists, got very deep ones") from None
    except ValueError:  # a number of thousands of digits
        raise ProtocolError("expected TOML of short numbers, got a very long one") from None
    faults: list[str] = []
    unknown: set[str] = set()
    while True:
        try:
            protocol = Protocol.model_validate_json(content, strict=True)
            break
        except ValidationError as error:
            found: list[dict[str, Any]] = [dict(item) for item in error.errors()]
        # Later rounds find only what the removal of the first faults left behind.
        faults = faults or [_fault_text(item, document) for item in found]
        unknown |= {str(item["loc"][0]) for item in found}
        content = _as_json(_without(json.loads(content), found))
    faults += combination_faults(protocol, unknown)
    if faults:
        raise ProtocolError(*faults)
    return protocol


def load_protocol(name: str) -> Protocol:
    """Load a packaged protocol by name ("digits"), or one from a path that ends in .toml.

    Raises ProtocolError if there is none, or if it cannot be run.
    """
    if name.endswith(".toml"):
        source = Path(name)
        if not source.is_file() or source.stat().st_size > MAX_FILE_BYTES:
            raise ProtocolError(
                f"expected a protocol file of at most {MAX_FILE_BYTES} bytes, got none at {name}"
            )
        try:
            return parse_protocol(source.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise ProtocolError(f"expected TOML in UTF-8, got another file at {name}") from None
    folder = files("stingy_attacker_eval") / "protocols"
    packaged = {item.name.removesuffix(".toml"): item for item in folder.iterdir()}
    if name not in packaged:
        known = ", ".join(sorted(packaged))
        raise ProtocolError(f'expected a protocol out of {known} or a .toml path, got "{name}"')
    return parse_protocol(packaged[name].read_text())


def _as_json(document: object) -> str:
    # JSON has no dates. An empty table is at fault wherever a protocol has a value.
    return json.dumps(document, default=lambda _: {})


def _without(document: dict[str, Any], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the document without its faulty parts, and with neutral values for needed fields.

    A faulty value is removed. A table that lacks a value is removed from its list.
    """
    for item in sorted(found, key=lambda item: len(item["loc"]), reverse=True):
        place = list(item["loc"])
        if item["type"] == "missing":
            place = place[:-1] or place
        *way, last = place
        if not way:
            if last in _NEUTRAL:
                document[last] = _NEUTRAL[last]
            else:
                document.pop(last, None)
            continue
        parent = _find(document, way)
        if isinstance(parent, list) and isinstance(last, int) and last < len(parent):
            parent[last] = _REMOVED
        elif isinstance(parent, dict):
            parent.pop(last, None)
    cleaned: dict[str, Any] = _clean(document)
    return cleaned


_REMOVED: dict[str, object] = {}


def _find(document: Any, way: Sequence[str | int]) -> Any:
    """Return the part of the document at this place; None if it is gone."""
    for step in way:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def _clean(part: Any) -> Any:
    """Return the part of a document without removed items of lists."""
    if isinstance(part, dict):
        return {name: _clean(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_clean(value) for value in part if value is not _REMOVED]
    return part


def _fault_text(item: Mapping[str, Any], document: object) -> str:
    place = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    match item["type"]:
        case "missing":
            message = "expected a value, got none"
        case "extra_forbidden":
            message = "expected a known setting, got another: correct its name or remove it"
        case "value_error":
            pass
        case kind:
            wanted = _WANTED.get(kind, message).format(**item.get("ctx", {}))
            message = f"expected {wanted}, got {_shown(_find(document, item['loc']))}"
    return f"{place}: {message}" if place else message


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f'"{text}"' if isinstance(value, str) else text
