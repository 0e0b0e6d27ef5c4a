"""The factories that a bundle may name to build its network.

A manifest is data from elsewhere, and its factory is code that runs. So the server calls only a
callable that is defined in a trusted module and that is made to build a network.
"""

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

# Arguments that make well-known factories fetch other weights than the bundle's, unless they are
# None or False.
DOWNLOADS = frozenset({"weights", "weights_backbone", "pretrained", "checkpoint_path"})
_OFF: tuple[Any, ...] = (None, False)
# timm's function for its registry has no return annotation. Names with a colon are no registry
# names: timm fetches such models.
TIMM_REGISTRY = "timm:create_model"


class FactoryRejected(Exception):
    """A factory that the server does not call. The text says why, and what to do."""


def check_factory(path: str, arguments: Mapping[str, Any], *, trusted: Sequence[str]) -> list[str]:
    """Return the faults of a factory that show without importing anything.

    Args:
        path: "package.module:callable".
        arguments: its keyword arguments.
        trusted: modules whose own callables may be called, those of their submodules too.
    """
    faults = []
    module, _, attribute = path.partition(":")
    if not _is_within(module, trusted):
        faults.append(
            f"expected a factory from a trusted module, got {path}; "
            "if you trust it, add its module to trusted_factories"
        )
    if any(part.startswith("_") for part in (*module.split("."), attribute)):
        faults.append(f"expected a public factory, got {path}")
    faults += [
        f"the argument {argument} would fetch weights; remove it, or set it to null or false"
        for argument in sorted(_find_downloads(arguments))
    ]
    if path == TIMM_REGISTRY and ":" in str(arguments.get("model_name", "")):
        faults.append("expected the name of a model in timm, got one that timm would fetch")
    return faults


def find_factory(path: str, *, trusted: Sequence[str]) -> Callable[..., Any]:
    """Import a factory whose path has no faults.

    Raises:
        FactoryRejected: the callable is defined elsewhere, or is not made to build a network.
    """
    module, _, attribute = path.partition(":")
    factory: Any = getattr(importlib.import_module(module), attribute)
    home = getattr(factory, "__module__", None)
    if not isinstance(home, str) or not _is_within(home, trusted):
        raise FactoryRejected(
            f"expected {path} to be defined in a trusted module, got one from {home}; "
            "if you trust it, add that module to trusted_factories"
        )
    if not (_builds_network(factory) or path == TIMM_REGISTRY):
        raise FactoryRejected(
            f"expected {path} to be an nn.Module class, or a function that is annotated to return "
            "one, got neither; annotate its return type"
        )
    return typing.cast("Callable[..., Any]", factory)


def _find_downloads(value: Any) -> set[str]:
    """Return the names in nested arguments that make a factory fetch weights."""
    if isinstance(value, list):
        return set().union(*map(_find_downloads, value))
    if not isinstance(value, Mapping):
        return set()
    own = {name for name, each in value.items() if name in DOWNLOADS and each not in _OFF}
    return own.union(*map(_find_downloads, value.values()))


def _is_within(module: str, homes: Sequence[str]) -> bool:
    return any(f"{module}.".startswith(f"{home}.") for home in homes)


def _builds_network(factory: object) -> bool:
    if inspect.isclass(factory):
        return issubclass(factory, nn.Module)
    if not inspect.isfunction(factory):
        return False
    try:
        returned = typing.get_type_hints(factory).get("return")
    except Exception:  # noqa: BLE001  an annotation is foreign code, which may raise anything
        return False
    return inspect.isclass(returned) and issubclass(returned, nn.Module)
