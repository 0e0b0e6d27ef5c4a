"""Settings from flags, environment and `stingy.toml`, in this order of precedence.

All faults are collected and reported at once.
"""

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from stingy_protection.files import read_regular_file
from stingy_server.settings import ENV_PREFIX, Settings

# Read by the client, no settings of the server.
CLIENT_VARIABLES = {"STINGY_URL", "STINGY_KEY", "STINGY_CA"}
DEFAULT_FILE = Path("stingy.toml")
MAX_FILE_BYTES = 2**20


def load_settings(config: Path | None = None, **flags: Any) -> tuple[Settings, list[str]]:
    """Return the settings, with faulty ones at their defaults, and the list of faults.

    Args:
        config: a TOML file; None for `stingy.toml` in the working directory, if there is one.
        flags: the settings of the command line; None means not given.
    """
    from_file, faults = _read_file(config)
    from_environment, environment_faults = _read_environment()
    faults += environment_faults
    given = from_file | from_environment
    given |= {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given), faults
    except ValidationError as error:
        faults += [_format_fault(detail) for detail in error.errors(include_input=False)]
        valid = _drop_faulty(given, [detail["loc"] for detail in error.errors()])
    return Settings(**valid), faults


def _drop_faulty(given: dict[str, Any], places: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Drop faulty settings, and of the models only the faulty ones."""
    faulty_models = {place[1] for place in places if place[0] == "models" and len(place) > 1}
    faulty = {place[0] for place in places if not (place[0] == "models" and len(place) > 1)}
    valid = {name: value for name, value in given.items() if name not in faulty}
    if "models" in valid:
        models = enumerate(valid["models"])
        valid["models"] = [model for index, model in models if index not in faulty_models]
    return valid


def _read_file(config: Path | None) -> tuple[dict[str, Any], list[str]]:
    path = config or DEFAULT_FILE
    try:
        found = tomllib.loads(read_regular_file(path, max_bytes=MAX_FILE_BYTES).decode())
    except FileNotFoundError:
        if config is None:
            return {}, []
        return {}, [f"{path}: expected a readable settings file, got none"]
    except (OSError, UnicodeDecodeError):
        return {}, [f"{path}: expected a readable settings file, got another file"]
    except tomllib.TOMLDecodeError as error:
        return {}, [f"{path}: expected valid TOML, got a fault: {error}"]
    except (ValueError, RecursionError):  # a number of thousands of digits, or very deep lists
        return {}, [f"{path}: expected TOML of short numbers and shallow lists, got another"]
    return _resolve_paths(path.parent, found), []


def _resolve_paths(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Resolve the paths of a settings file from its own folder, not from the working directory."""
    for name in ("state", "tls_cert", "tls_key", "webhook_secret_file"):
        if isinstance(found.get(name), str):
            found[name] = folder / found[name]
    marks = found.get("marks")
    if isinstance(marks, dict) and isinstance(marks.get("secret_file"), str):
        marks["secret_file"] = folder / marks["secret_file"]
    models = found.get("models")
    for model in models if isinstance(models, list) else []:
        for name in ("bundle", "key_file"):
            if isinstance(model, dict) and isinstance(model.get(name), str):
                model[name] = folder / model[name]
    return found


def _read_environment() -> tuple[dict[str, Any], list[str]]:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    faults = [
        f"{name}: unknown setting in the environment; unset it or correct its name"
        for name in sorted(os.environ)
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known
    ]
    faults += [
        f"{name}: expected text in UTF-8, got other bytes"
        for name in sorted(os.environ)
        if name.upper() in known and not _is_utf8(os.environ[name])
    ]
    try:
        return EnvSettingsSource(Settings)(), faults
    except SettingsError as error:
        return {}, [*faults, f"environment: {error}"]
    except (ValueError, RecursionError):  # JSON with very deep lists
        return {}, [*faults, "environment: expected settings of shallow lists, got others"]


def _is_utf8(text: str) -> bool:
    # Bytes of the environment that are no UTF-8 become halves of surrogate pairs in Python.
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _format_fault(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown setting; remove it or correct its name"
    return f"{place}: {detail['msg']}"
