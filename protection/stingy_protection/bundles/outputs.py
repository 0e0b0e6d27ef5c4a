"""The outputs of a network: which of them are its logits, and logits from probabilities."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stingy_protection.bundles.manifest import Outputs
from stingy_protection.errors import LogitsRejected

LOGITS = "logits"
SUM_TOLERANCE = 1e-3  # of the sum of a row of probabilities


def unwrap_logits(output: Any) -> Tensor:
    """Return the logits of what a network returned: a tensor, or one named logits.

    Networks of transformers, and some of torchvision, return an object or a dict with `logits`.

    Raises:
        LogitsRejected: if there is no such tensor, or more than one.
    """
    if isinstance(output, Tensor):
        return output
    found = output.get(LOGITS) if isinstance(output, Mapping) else getattr(output, LOGITS, None)
    if found is None and isinstance(output, tuple | list) and len(output) == 1:
        found = output[0]
    if isinstance(found, Tensor):
        return found
    got = f"{type(output).__name__}"
    if isinstance(output, Mapping):
        got += f" with {', '.join(sorted(map(str, output))[:5])}"
    elif isinstance(output, tuple | list):
        got += f" of {len(output)}"
    raise LogitsRejected(f"expected a tensor, or one output named logits, got a {got}")


def log_of_probabilities(probabilities: Tensor) -> Tensor:
    """Return logits [batch, classes] whose softmax are these probabilities.

    A probability below the smallest normal float32, 1.2e-38, counts as that, so that no logit is
    -inf.
    """
    return probabilities.float().clamp_min(torch.finfo(torch.float32).tiny).log()


def find_form_fault(rows: Tensor, outputs: Outputs) -> str | None:
    """Return the fault of rows [batch, classes] that are not of the declared form, or None."""
    sums, positive = rows.sum(dim=1), bool((rows >= 0).all())
    are_probabilities = positive and bool(((sums - 1).abs() < SUM_TOLERANCE).all())
    if positive and bool(((sums - 100).abs() < 100 * SUM_TOLERANCE).all()):
        return (
            f"expected {outputs}, got rows that sum to 100, as percentages after a softmax; serve "
            "the model without that step"
        )
    if outputs == "logits" and are_probabilities:
        return (
            "expected logits, got rows that sum to 1, as after a softmax; serve the model "
            'without it, or set outputs = "probabilities" (--outputs when it is packed), which '
            "takes their logarithm"
        )
    if outputs == "probabilities" and not are_probabilities:
        return (
            "expected rows of probabilities that sum to 1, got others; for logits set "
            'outputs = "logits"'
        )
    return None


class LogitsOf(nn.Module):
    """A network whose only output are logits, so that it can be exported.

    Args:
        network: returns what `unwrap_logits` accepts.
        outputs: the form of it.
    """

    def __init__(self, network: nn.Module, *, outputs: Outputs) -> None:
        super().__init__()
        self._network = network
        self._outputs = outputs

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits [batch, classes] of inputs."""
        found = unwrap_logits(self._network(inputs))
        return log_of_probabilities(found) if self._outputs == "probabilities" else found
