"""The one way out of the model worker. Invariant: what leaves kept every promise of its policy."""

import numpy as np
import torch
from torch import Tensor

from stingy_protection.answers import SparseLogits
from stingy_protection.errors import LogitsRejected, PolicyViolation, ProtectionError
from stingy_protection.gate.scores import told
from stingy_protection.ordering import Floats, Ints
from stingy_protection.policies.base import NoisyPolicy, Policy, Proposal

ACCEPTED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def sanitize(policy: Policy, logits: Tensor, *, noise: Tensor | None = None) -> SparseLogits:
    """Apply a policy to raw logits and let out what it may tell, and no more.

    The policy proposes, the gate disposes. Scores are rounded to the policy's grid, and classes
    whose rounded scores are equal are listed by index, so that the order of the list never tells
    more than the scores do; only the top-1 stays first whatever its score.

    Args:
        policy: what may leave.
        logits: floating `[batch, classes]`, at least one row, finite, without gradients.
        noise: for a `NoisyPolicy` and no other, standard normal and finite, shaped as the logits.

    Returns:
        N <= policy.support classes of each row, in fresh CPU storage. Only N values of a row are
        copied off the logits' device.

    Raises:
        LogitsRejected: the logits or the noise are not as described.
        PolicyViolation: the policy failed or broke a promise.
    """
    # An answer must be an ordinary tensor even where the model ran in inference mode.
    with torch.inference_mode(False), torch.no_grad():
        logits = _accepted(policy, logits)
        top1 = _inspected(logits)  # before the policy could touch the logits
        proposal = propose(policy, logits, _accepted_noise(policy, logits, noise))
        _check_form(policy, proposal, logits)
        indices = proposal.indices.cpu().numpy().copy()
        kept = proposal.logits.to("cpu", torch.float32).numpy().astype(np.float64)
        _check_entries(indices, kept, policy.num_classes)
        if policy.keeps_top1 and (indices[:, 0] != top1).any():
            raise PolicyViolation("expected the top-1 class first, got another")
        indices, scores = told(indices, kept, form=policy.scores, decimals=policy.decimals)
        return SparseLogits(
            indices=torch.from_numpy(indices),
            scores=None if scores is None else torch.from_numpy(scores),
            num_classes=policy.num_classes,
            form=policy.scores,
            decimals=policy.decimals,
        )


def propose(policy: Policy, logits: Tensor, noise: Tensor | None = None) -> Proposal:
    """Ask the policy, and turn whatever it raises into a PolicyViolation without a trace."""
    failed = False
    try:
        if isinstance(policy, NoisyPolicy) and noise is not None:
            proposal = policy.propose_with(logits, noise)
        else:
            proposal = policy.propose(logits)
    except ProtectionError:
        raise
    except Exception:  # noqa: BLE001 - third-party code may raise anything, with tensors in its text
        failed = True
    if failed:  # outside the handler, so that the error carries no context either
        raise PolicyViolation("the policy failed")
    return proposal


def _accepted(policy: Policy, logits: Tensor) -> Tensor:
    """The logits as float32, or a refusal."""
    if not isinstance(logits, Tensor):
        raise LogitsRejected("expected logits as a tensor, got another type")
    if logits.dim() != 2:
        raise LogitsRejected(f"expected logits [batch, classes], got {logits.dim()} dimensions")
    if logits.dtype not in ACCEPTED:
        raise LogitsRejected(f"expected floating logits, got {logits.dtype}")
    if logits.shape[0] < 1 or logits.shape[1] != policy.num_classes:
        raise LogitsRejected(
            f"expected logits [>= 1, {policy.num_classes}], got {list(logits.shape)}"
        )
    if logits.requires_grad:
        raise LogitsRejected("expected logits without gradients, got requires_grad")
    return logits.to(torch.float32)


def _accepted_noise(policy: Policy, logits: Tensor, noise: Tensor | None) -> Tensor | None:
    """The noise as float32 beside the logits, where the policy takes any, or a refusal."""
    if not isinstance(policy, NoisyPolicy):
        if noise is not None:
            raise LogitsRejected(f"expected no noise for the policy {policy.name}, got some")
        return None
    if noise is None:
        raise LogitsRejected(f"expected noise for the policy {policy.name}, got none")
    if noise.dtype not in ACCEPTED or noise.shape != logits.shape or not noise.isfinite().all():
        raise LogitsRejected("expected finite noise, one for each logit, got another")
    return noise.to(logits.device, torch.float32)


def _inspected(logits: Tensor) -> Ints:
    """The top-1 of each row, ties to the lower index, once the logits are known to be finite."""
    if logits.device.type == "cpu":  # numpy's argmax is 15 times faster than torch's there
        rows = logits.numpy()
        finite, top1 = np.isfinite(rows).all(), rows.argmax(axis=1)
    else:
        finite, top1 = logits.isfinite().all(), logits.argmax(dim=1).cpu().numpy()
    if not finite:
        raise LogitsRejected("expected finite logits, got NaN or infinity")
    found: Ints = top1
    return found


def _check_form(policy: Policy, proposal: Proposal, logits: Tensor) -> None:
    """Types and shapes, before anything is copied off the device."""
    if type(proposal) is not Proposal:
        raise PolicyViolation("expected a Proposal, got another type")
    indices, kept = proposal.indices, proposal.logits
    if type(indices) is not Tensor or type(kept) is not Tensor:
        raise PolicyViolation("expected plain tensors in the proposal, got another type")
    if indices.dtype is not torch.int64 or kept.dtype not in ACCEPTED:
        raise PolicyViolation(f"expected int64 and floating, got {indices.dtype} and {kept.dtype}")
    if indices.dim() != 2 or indices.shape[0] != logits.shape[0] or kept.shape != indices.shape:
        raise PolicyViolation(
            f"expected two tensors [{logits.shape[0]}, n], "
            f"got {list(indices.shape)} and {list(kept.shape)}"
        )
    if not 1 <= indices.shape[1] <= policy.support:
        raise PolicyViolation(f"expected 1..{policy.support} entries, got {indices.shape[1]}")
    if indices.device != logits.device or kept.device != logits.device:
        raise PolicyViolation("expected the proposal on the device of the logits, got another")


def _check_entries(indices: Ints, kept: Floats, num_classes: int) -> None:
    """Range, uniqueness, finiteness."""
    if indices.view(np.uint64).max() >= num_classes:  # as such, what is negative is large
        raise PolicyViolation(f"expected indices 0..{num_classes - 1}, got one out of range")
    rising = np.sort(indices, axis=1)
    if (rising[:, 1:] == rising[:, :-1]).any():
        raise PolicyViolation("expected unique indices in each row, got one twice")
    if not np.isfinite(kept).all():
        raise PolicyViolation("expected finite values, got NaN or infinity")
