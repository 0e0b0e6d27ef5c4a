"""The cause of logits that are NaN or infinite, for the sentence of a trial."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from stingy_server.models.trial import LOOK

NAMED = 3  # tensors that a sentence names


def find_cause(network: nn.Module, inputs: Tensor) -> str:
    """Find why a network makes NaN or infinity of inputs.

    Args:
        inputs: float32 [batch, channels, height, width], on the network's device.

    Returns:
        The end of a sentence: the faulty weights, or the first layer with such numbers.
    """
    tensors = dict(network.state_dict(keep_vars=True))
    faulty = [name for name, value in tensors.items() if _is_damaged(value)]
    if faulty:
        return describe_damage(faulty)
    negative = [
        name
        for name, value in tensors.items()
        if name.endswith("running_var") and bool((value < 0).any())
    ]
    if negative:
        return f"a variance is below 0 in {list_names(negative)}: these are other weights"
    layer = _find_layer(network, inputs)
    return f"they begin in the layer {layer}; {LOOK}" if layer else LOOK


def describe_damage(names: Iterable[str]) -> str:
    """Return the end of a sentence about weights that are NaN or infinite."""
    return (
        f"the weights have some in {list_names(list(names))}: "
        "the training diverged, or the file is damaged"
    )


def list_names(names: list[str]) -> str:
    """List the first names, and count the rest."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(name[:128] for name in names[:NAMED]) + more


def _is_damaged(value: Any) -> bool:
    is_float = isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
    return is_float and not bool(value.isfinite().all())


@torch.inference_mode()
def _find_layer(network: nn.Module, inputs: Tensor) -> str:
    """Return the name of the first layer whose output is NaN or infinite; empty if none is."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not found and _is_damaged(output):
                found.append(name)

        return hook

    handles = [
        module.register_forward_hook(look(name))
        for name, module in network.named_modules()
        if name and not list(module.children())
    ]
    try:
        network(inputs)
    except Exception:  # noqa: BLE001, S110  a network may raise anything
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""
