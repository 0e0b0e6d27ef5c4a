"""The forward pass: from pixels to logits, with a network's preprocessing and form of outputs."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from stingy_protection import Preprocessing
from stingy_protection.bundles.manifest import Outputs
from stingy_protection.bundles.outputs import log_of_probabilities, unwrap_logits

# From inputs float32 [batch, channels, height, width] to logits [batch, classes].
Network: TypeAlias = Callable[[Tensor], Tensor]


class Forward:
    """A network behind its preprocessing.

    The inputs equal those of torchvision's `ToTensor` and `Normalize` bit for bit.

    Args:
        network: maps float32 [batch, channels, height, width] to what `unwrap_logits` accepts.
        outputs: the form of its outputs. Logits are made from probabilities.
        device: the device of pixels and inputs.
        precision: the type of autocast; float32 for none.
        arithmetic: the type that the network computes in, if it is not `precision`.
        contiguous: whether inputs are copied to the strides of their shape. Otherwise they keep
            the strides of the pixels, torch's channels_last.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Any],
        *,
        preprocessing: Preprocessing,
        outputs: Outputs = "logits",
        device: torch.device,
        precision: torch.dtype = torch.float32,
        arithmetic: torch.dtype | None = None,
        contiguous: bool = False,
    ) -> None:
        self.network = network
        self.device = device
        self.precision = precision
        self.arithmetic = arithmetic or precision
        self.contiguous = contiguous
        self._probabilities = outputs == "probabilities"
        shape = (1, preprocessing.channels, 1, 1)
        self._mean = torch.tensor(preprocessing.mean, device=device).view(shape)
        self._std = torch.tensor(preprocessing.std, device=device).view(shape)
        # A tensor, because by a Python number CUDA multiplies with the rounded inverse.
        self._full = torch.tensor(255.0, device=device)
        self._grey = preprocessing.channels == 1

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the logits [batch, classes] of pixels.

        Args:
            pixels: uint8 [batch, height, width, 3] on `device`, of the model's input size.

        Raises:
            LogitsRejected: if the network returns no tensor of logits.
        """
        output = self.run(pixels)
        logits = output if isinstance(output, Tensor) else unwrap_logits(output)
        return log_of_probabilities(logits) if self._probabilities else logits

    def run(self, pixels: Tensor) -> Any:
        """Return what the network returns for pixels."""
        inputs = self.inputs(pixels)
        if self.precision == torch.float32:
            return self.network(inputs)
        with torch.autocast(self.device.type, dtype=self.precision):
            return self.network(inputs)

    def inputs(self, pixels: Tensor) -> Tensor:
        """Return the network's inputs, float32 [batch, channels, height, width].

        Of a grey network's pixels, whose channels are equal, the first is taken.
        """
        if self._grey:
            pixels = pixels[..., :1]
        channels = pixels.permute(0, 3, 1, 2)
        if self.contiguous:
            channels = channels.contiguous()
        return (channels.float() / self._full - self._mean) / self._std
