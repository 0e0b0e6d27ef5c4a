"""What attacks do with networks they did not build: ask them, tap them, start them anew."""

import copy

import torch
from torch import Tensor, nn

from stingy_attacker_eval.errors import AttackError
from stingy_attacker_eval.training import normalise

_BATCH = 1024


@torch.no_grad()
def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """The network's logits, float32 `[n, classes]`, in eval mode; images uint8 `[n, 3, H, W]`."""
    was_training = network.training
    network.eval()
    parts = [network(normalise(part)).float() for part in torch.split(images, _BATCH)]
    network.train(was_training)
    return torch.cat(parts)


def reinitialised(network: nn.Module) -> nn.Module:
    """A network of the same build with weights of its own, from torch's global random source."""
    fresh = copy.deepcopy(network)
    for module in fresh.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    return fresh


class Tap:
    """The tensor that passed a chosen place of a network in its latest forward pass."""

    def __init__(self, module: nn.Module, *, of_input: bool) -> None:
        self._value: Tensor | None = None

        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._value = inputs[0] if of_input else output

        self._hook = module.register_forward_hook(keep)

    @property
    def value(self) -> Tensor:
        if self._value is None:
            raise AttackError("expected a forward pass before its features are read")
        return self._value

    def remove(self) -> None:
        self._hook.remove()


def last_linear(network: nn.Module) -> nn.Linear:
    """The classifier, whose input are the features. Raises AttackError for a network without."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise AttackError("expected a network that ends in a linear layer, got another")
    return layers[-1]


def middle_convolution(network: nn.Module) -> nn.Conv2d:
    """The convolution in the middle of the network. Raises AttackError for one without."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if not layers:
        raise AttackError("expected a network with convolutions, got another")
    return layers[len(layers) // 2]
