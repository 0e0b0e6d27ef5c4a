"""The gate as a part of the network. Invariant: no output but what the policy lets out."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from stingy_protection.answers import ScoreForm, SparseLogits
from stingy_protection.bundles.manifest import Preprocessing
from stingy_protection.errors import LogitsRejected, PolicyConfigError, PolicyViolation
from stingy_protection.gate.promises import verified_answer
from stingy_protection.gate.scores import LARGEST
from stingy_protection.policies.base import NoisyPolicy, Policy

REFUSED = -1  # the index that fills a row whose logits were not finite


class FusedGate(nn.Module):
    """From logits to what may leave, as one function of tensors that can be exported.

    What it tells is what `sanitize` tells, but for a score that arithmetic in another order moves
    across a step of the grid. It cannot raise: a row whose logits are not finite comes back with
    the index -1 and the score 0 in every place. Run it exported; as it is, the policy may take ways
    that no graph has.

    Raises:
        PolicyConfigError: the policy takes noise, which no graph draws.
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
        """The names of what `forward` returns: no scores where the policy tells none."""
        return ("indices",) if self._policy.scores is ScoreForm.NONE else ("indices", "scores")

    def forward(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Indices int64 `[batch, n]`, and scores float32 `[batch, n]` if the policy tells any."""
        logits = logits.float()
        is_finite = logits.isfinite().all(dim=1, keepdim=True)
        proposal = self._policy.propose(torch.where(is_finite, logits, 0.0))
        indices, scores = self._told(proposal.indices, proposal.logits.float())
        indices = torch.where(is_finite, indices, REFUSED)
        return (indices,) if scores is None else (indices, torch.where(is_finite, scores, 0.0))

    def _told(self, indices: Tensor, kept: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `telling.told`."""
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
        # By index, and then stably by score: after the first, equal scores stay in index order.
        rising, places = indices[:, 1:].sort(dim=1, stable=True)
        rest, order = rounded[:, 1:].gather(1, places).sort(dim=1, descending=True, stable=True)
        return (
            torch.cat([indices[:, :1], rising.gather(1, order)], dim=1),
            torch.cat([rounded[:, :1], rest], dim=1),
        )


class FusedClassifier(nn.Module):
    """Preprocessing, network and gate in one: images in, indices and scores out.

    Args:
        network: from `[batch, 3, height, width]` to logits `[batch, classes]`.
        preprocessing: its mean and std; images come in the size it names.
        policy: what may leave.

    Raises:
        PolicyConfigError: as `FusedGate`.
    """

    def __init__(self, network: nn.Module, *, preprocessing: Preprocessing, policy: Policy) -> None:
        super().__init__()
        self.gate = FusedGate(policy)
        self._network = network
        self._mean: Tensor
        self._std: Tensor
        self.register_buffer("_mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("_std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """As `FusedGate.forward`, for RGB images uint8 `[batch, height, width, 3]`."""
        inputs = (image.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        told: tuple[Tensor, ...] = self.gate(self._network(inputs))
        return told


def received(policy: Policy, outputs: Sequence[npt.NDArray[Any]], *, rows: int) -> SparseLogits:
    """What a fused program returned, as an answer, if it keeps the promises of its policy.

    Args:
        policy: the one the program was fused with.
        outputs: as `FusedGate.outputs` names them.
        rows: how many images were asked.

    Raises:
        LogitsRejected: a row was refused in the graph.
        PolicyViolation: a promise is broken.
    """
    told = policy.scores is not ScoreForm.NONE
    if len(outputs) != 1 + told or len(outputs[0]) != rows:
        raise PolicyViolation(f"expected {1 + told} outputs of {rows} rows, got others")
    if (outputs[0] == REFUSED).any():
        raise LogitsRejected("expected finite logits, got NaN or infinity")
    return verified_answer(policy, outputs[0], outputs[1] if told else None)
