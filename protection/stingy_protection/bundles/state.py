"""The state of a network: whether it fits the network that a factory builds, and its names."""

import importlib
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stingy_protection.errors import BundleError

# torch.nn.DataParallel and torch.compile put these parts into the names of a network's tensors.
WRAPPERS = frozenset({"module", "_orig_mod"})
NAMED = 5  # faulty tensors that an error names


def build_network(factory: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Import a factory and call it. The caller vouches for it, because it is code that runs.

    The state of torch's random numbers is as before.

    Args:
        factory: "package.module:callable".
        arguments: its keyword arguments.

    Raises:
        BundleError: if it cannot be imported, raises, or makes no `nn.Module`.
    """
    module, _, attribute = factory.partition(":")
    try:
        with torch.random.fork_rng(devices=[]):
            network = getattr(importlib.import_module(module), attribute)(**arguments)
    # A factory is foreign code, which may raise anything.
    except Exception as error:  # noqa: BLE001
        text = f"expected {factory} to build the network, got {type(error).__name__}: {error}"
        raise BundleError((text,)) from None
    if not isinstance(network, nn.Module):
        got = type(network).__name__
        raise BundleError((f"expected {factory} to make a torch.nn.Module, got {got}",))
    return network


def fit_state(
    state: Mapping[str, Tensor], network: nn.Module, *, factory: str
) -> dict[str, Tensor]:
    """Return a state under the names of a network, without the names of wrappers.

    Args:
        state: the tensors by name.
        network: the network that the factory built.
        factory: its name, for the error.

    Raises:
        BundleError: if a tensor is missing, is too much, has another shape, or has numbers that
            the network's type cannot represent. It names them.
    """
    expected = {
        name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)
    }
    fitted = dict(state)
    for rename in (_strip_front, _strip_everywhere):
        if fitted.keys() == expected.keys():
            break
        renamed = {rename(name, expected): value for name, value in state.items()}
        if len(renamed) == len(state) and len(renamed.keys() & expected.keys()) > len(
            fitted.keys() & expected.keys()
        ):
            fitted = renamed
    missing, unknown = expected.keys() - fitted.keys(), fitted.keys() - expected.keys()
    faults = []
    if missing:
        faults.append(f"expected every tensor of {factory}, got none for {_list(missing)}")
    if unknown:
        faults.append(f"expected only tensors of {factory}, got also {_list(unknown)}")
    shapes = [
        f"expected the shape {list(expected[name].shape)} of {name}, as {factory} has it, "
        f"got {list(fitted[name].shape)}"
        for name in sorted(fitted.keys() & expected.keys())
        if fitted[name].shape != expected[name].shape
    ]
    if len(shapes) > NAMED:
        shapes = [*shapes[:NAMED], f"{len(shapes) - NAMED} more tensors have another shape"]
    types = [
        name
        for name in sorted(fitted.keys() & expected.keys())
        if fitted[name].is_complex() > expected[name].is_complex()
        or (expected[name].is_floating_point() and not fitted[name].is_floating_point())
    ]
    if types and not shapes:
        found = str(fitted[types[0]].dtype).removeprefix("torch.")
        faults.append(
            f"expected floating-point numbers in {_list(types)}, as {factory} has them, "
            f"got {found}; save the weights before they are quantised or converted"
        )
    if faults or shapes:
        raise BundleError((*faults, *shapes))
    return fitted


def _strip_front(name: str, expected: Collection[str]) -> str:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in WRAPPERS and ".".join(parts) not in expected:
        del parts[0]
    return ".".join(parts)


def _strip_everywhere(name: str, expected: Collection[str]) -> str:
    if name in expected:
        return name
    return ".".join(part for part in name.split(".") if part not in WRAPPERS) or name


def _list(names: Collection[str]) -> str:
    first = ", ".join(name[:128] for name in sorted(names)[:NAMED])
    return f"{first} and {len(names) - NAMED} more" if len(names) > NAMED else first
