"""Operations on any network: compute logits, read inner tensors, draw new weights."""

import copy

import torch
from torch import Tensor, nn

from stingy_attacker_eval.errors import AttackError
from stingy_attacker_eval.training import normalise

_BATCH = 1024


@torch.no_grad()
def compute_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Compute logits, float32 `[n, classes]`, in eval mode, for images uint8 `[n, 3, H, W]`."""
    was_training = network.training
    network.eval()
    parts = [network(normalise(part)).float() for part in torch.split(images, _BATCH)]
    network.train(was_training)
    return torch.cat(parts)


def copy_with_new_weights(network: nn.Module, *, head_only: bool = False) -> nn.Module:
    """Copy a network and draw new weights for the copy, from torch's global random generator.

    head_only: keep the weights of all layers but the last linear one.

    Raises AttackError if the head alone is wanted, and the network has no linear layer.
    """
    new = copy.deepcopy(network)
    for module in [last_linear(new)] if head_only else new.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    return new


class Tap:
    """A hook that keeps a module's input or output of the latest forward pass."""

    def __init__(self, module: nn.Module, *, of_input: bool) -> None:
        self._value: Tensor | None = None

        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._value = inputs[0] if of_input else output

        self._hook = module.register_forward_hook(keep)

    @property
    def value(self) -> Tensor:
        if self._value is None:
            raise AttackError("expected a forward pass before the features are read, got none")
        return self._value

    def remove(self) -> None:
        self._hook.remove()


def last_linear(network: nn.Module) -> nn.Linear:
    """Return the last linear layer, the classifier; its inputs are the features.

    Raises AttackError if the network has no linear layer.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise AttackError("expected a network with a linear layer, got one without")
    return layers[-1]


def middle_convolution(network: nn.Module) -> nn.Conv2d:
    """Return the middle one of the network's convolutions.

    Raises AttackError if the network has no convolution.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if not layers:
        raise AttackError("expected a network with convolutions, got one without")
    return layers[len(layers) // 2]
