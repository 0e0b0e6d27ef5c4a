"""The gate as a part of the network. Invariant: the only outputs are those of the gate."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from stingy_protection.answers import ScoreForm, SparseLogits
from stingy_protection.bundles.manifest import Outputs
from stingy_protection.bundles.outputs import LogitsOf
from stingy_protection.bundles.preprocessing import Preprocessing
from stingy_protection.errors import LogitsRejected, PolicyConfigError, PolicyViolation
from stingy_protection.gate.promises import verify_answer
from stingy_protection.gate.scores import LARGEST
from stingy_protection.policies.base import NoisyPolicy, Policy

NON_FINITE = -1  # the index in every place of a row whose logits were not finite


class FusedGate(nn.Module):
    """The gate as an exportable function from logits to indices and scores.

    Its outputs equal those of `sanitize`, except for scores that arithmetic in another order moves
    across a step of the grid. It cannot raise. So a row with logits that are not finite gets the
    index -1 and the score 0 in every place. Run it exported, because in eager mode the policy may
    take branches that no graph has.

    Raises:
        PolicyConfigError: if the policy needs noise, because a graph cannot draw noise.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        if isinstance(policy, NoisyPolicy):
            raise PolicyConfigError(
                (f"expected a policy without noise to fuse, got {policy.name}",)
            )
        self._policy = policy

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs of `forward`: "scores" is missing if the policy has none."""
        return ("indices",) if self._policy.scores is ScoreForm.NONE else ("indices", "scores")

    def forward(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Compute what leaves for a batch.

        Args:
            logits: floating `[batch, classes]`.

        Returns:
            indices int64 `[batch, n]` and, if the policy has scores, scores float32 `[batch, n]`.
        """
        logits = logits.float()
        is_finite = logits.isfinite().all(dim=1, keepdim=True)
        proposal = self._policy.propose(torch.where(is_finite, logits, 0.0))
        indices, scores = self._format_scores(proposal.indices, proposal.logits.float())
        indices = torch.where(is_finite, indices, NON_FINITE)
        return (indices,) if scores is None else (indices, torch.where(is_finite, scores, 0.0))

    def _format_scores(self, indices: Tensor, kept: Tensor) -> tuple[Tensor, Tensor | None]:
        """Do as `gate.scores.format_scores`, in torch."""
        form = self._policy.scores
        if form is ScoreForm.NONE:
            return indices, None
        if form is ScoreForm.RANK:
            ranks = torch.arange(1, indices.shape[1] + 1, dtype=torch.float32)
            return indices, ranks.to(indices.device).expand_as(kept)
        scores = kept.double()
        if form is not ScoreForm.LOGIT:
            scores = scores.log_softmax(dim=1) if form is ScoreForm.LOG_PROB else scores.softmax(1)
        steps = 10.0**self._policy.decimals
        rounded = ((scores * steps).round() / steps + 0.0).clamp(-LARGEST, LARGEST).float()
        # Sort by index, then stably by score, so that equal scores after the first are in index
        # order.
        rising, places = indices[:, 1:].sort(dim=1, stable=True)
        rest, order = rounded[:, 1:].gather(1, places).sort(dim=1, descending=True, stable=True)
        return (
            torch.cat([indices[:, :1], rising.gather(1, order)], dim=1),
            torch.cat([rounded[:, :1], rest], dim=1),
        )


class FusedClassifier(nn.Module):
    """Preprocessing, network and gate in one module: it maps images to indices and scores.

    Args:
        network: maps inputs `[batch, channels, height, width]` to what `unwrap_logits` accepts.
        preprocessing: gives channels, mean and std. The images must already have its size.
        policy: the policy of the gate.
        outputs: the form of the network's outputs.

    Raises:
        PolicyConfigError: if the policy needs noise.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        preprocessing: Preprocessing,
        policy: Policy,
        outputs: Outputs = "logits",
    ) -> None:
        super().__init__()
        self.gate = FusedGate(policy)
        self._network = LogitsOf(network, outputs=outputs)
        self._is_grey = preprocessing.channels == 1
        shape = (1, preprocessing.channels, 1, 1)
        self._mean: Tensor
        self._std: Tensor
        self.register_buffer("_mean", torch.tensor(preprocessing.mean).view(shape))
        self.register_buffer("_std", torch.tensor(preprocessing.std).view(shape))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the gate's outputs, as `FusedGate.forward` does.

        Args:
            image: RGB images uint8 `[batch, height, width, 3]`.
        """
        if self._is_grey:
            image = _grey_of(image)
        inputs = (image.permute(0, 3, 1, 2).contiguous().float() / 255 - self._mean) / self._std
        outputs: tuple[Tensor, ...] = self.gate(self._network(inputs))
        return outputs


def _grey_of(image: Tensor) -> Tensor:
    """Convert RGB `[batch, height, width, 3]` to grey `[batch, height, width, 1]` as Pillow does.

    Equal channels stay as they are.
    """
    red, green, blue = image.to(torch.int32).unbind(dim=3)
    # Pillow shifts by 16 bits. All terms are positive, so the division has the same result.
    grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000).div(65536, rounding_mode="floor")
    return grey.unsqueeze(3)


def read_outputs(policy: Policy, outputs: Sequence[npt.NDArray[Any]], *, rows: int) -> SparseLogits:
    """Build the answer from a fused program's outputs, and check the promises of its policy.

    Args:
        policy: the policy that the program was fused with.
        outputs: the arrays that `FusedGate.outputs` names, in its order.
        rows: the number of images in the batch.

    Raises:
        LogitsRejected: if a row's logits were not finite.
        PolicyViolation: if a promise is broken.
    """
    has_scores = policy.scores is not ScoreForm.NONE
    if len(outputs) != 1 + has_scores or len(outputs[0]) != rows:
        raise PolicyViolation(f"expected {1 + has_scores} outputs of {rows} rows, got others")
    if (outputs[0] == NON_FINITE).any():
        raise LogitsRejected("expected finite logits, got NaN or infinity")
    return verify_answer(policy, outputs[0], outputs[1] if has_scores else None)
