"""The only way out of the model worker. Invariant: every answer keeps its policy's promises."""

import numpy as np
import torch
from torch import Tensor

from stingy_protection.answers import SparseLogits
from stingy_protection.errors import LogitsRejected, PolicyViolation, ProtectionError
from stingy_protection.gate.scores import format_scores
from stingy_protection.ordering import Floats, Ints
from stingy_protection.policies.base import NoisyPolicy, Policy, Proposal

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def sanitize(policy: Policy, logits: Tensor, *, noise: Tensor | None = None) -> SparseLogits:
    """Apply a policy to raw logits, check its promises, and build the answer.

    The policy proposes and the gate decides. The gate rounds scores to the policy's grid. Classes
    with equal rounded scores are listed by index, so that the order of the list never leaks more
    than the scores. The top-1 is the exception: it stays first whatever its score.

    Args:
        policy: the policy that decides what may leave.
        logits: floating `[batch, classes]`, at least one row, finite, without gradients.
        noise: standard normal and finite `[batch, classes]`. Given for a `NoisyPolicy` only.

    Returns:
        At most policy.support classes of each row, in fresh CPU storage. Only these values of a
        row are copied from the logits' device.

    Raises:
        LogitsRejected: if the logits or the noise are not as described.
        PolicyViolation: if the policy failed or broke a promise.
    """
    # An answer must be an ordinary tensor even if the model ran in inference mode.
    with torch.inference_mode(False), torch.no_grad():
        indices, kept = accept(policy, logits, noise)
        indices, scores = format_scores(indices, kept, form=policy.scores, decimals=policy.decimals)
        return SparseLogits(
            indices=torch.from_numpy(indices),
            scores=None if scores is None else torch.from_numpy(scores),
            num_classes=policy.num_classes,
            form=policy.scores,
            decimals=policy.decimals,
        )


def accept(policy: Policy, logits: Tensor, noise: Tensor | None = None) -> tuple[Ints, Floats]:
    """Apply a policy and check its promises, as `sanitize` does, without rounding.

    Returns:
        indices and the policy's version of their logits, `[batch, n]`, best first.

    Raises:
        LogitsRejected: if the logits or the noise are not as `sanitize` describes.
        PolicyViolation: if the policy failed or broke a promise.
    """
    logits = _validate_logits(policy, logits)
    top1 = _find_top1(logits)  # before the policy can change the logits
    proposal = propose(policy, logits, _validate_noise(policy, logits, noise))
    _check_tensors(policy, proposal, logits)
    indices = proposal.indices.cpu().numpy().copy()
    kept = proposal.logits.to("cpu", torch.float32).numpy().astype(np.float64)
    _check_entries(indices, kept, policy.num_classes)
    if policy.keeps_top1 and (indices[:, 0] != top1).any():
        raise PolicyViolation("expected the top-1 class first, got another")
    return indices, kept


def propose(policy: Policy, logits: Tensor, noise: Tensor | None = None) -> Proposal:
    """Call the policy, and replace any foreign error by a PolicyViolation without its details."""
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
    if failed:  # raised outside the handler, so that the error has no context either
        raise PolicyViolation("the policy failed")
    return proposal


def _validate_logits(policy: Policy, logits: Tensor) -> Tensor:
    """Check the logits' type and shape, and convert them to float32."""
    if not isinstance(logits, Tensor):
        raise LogitsRejected("expected logits as a tensor, got another type")
    if logits.dim() != 2:
        raise LogitsRejected(f"expected logits [batch, classes], got {logits.dim()} dimensions")
    if logits.dtype not in FLOATING:
        raise LogitsRejected(f"expected floating logits, got {logits.dtype}")
    if logits.shape[0] < 1 or logits.shape[1] != policy.num_classes:
        raise LogitsRejected(
            f"expected logits [>= 1, {policy.num_classes}], got {list(logits.shape)}"
        )
    if logits.requires_grad:
        raise LogitsRejected("expected logits without gradients, got requires_grad")
    return logits.to(torch.float32)


def _validate_noise(policy: Policy, logits: Tensor, noise: Tensor | None) -> Tensor | None:
    """Check that a noisy policy has noise, and convert it to float32 on the logits' device."""
    if not isinstance(policy, NoisyPolicy):
        if noise is not None:
            raise LogitsRejected(f"expected no noise for the policy {policy.name}, got some")
        return None
    if noise is None:
        raise LogitsRejected(f"expected noise for the policy {policy.name}, got none")
    if noise.dtype not in FLOATING or noise.shape != logits.shape or not noise.isfinite().all():
        raise LogitsRejected("expected finite noise of the logits' shape, got another")
    return noise.to(logits.device, torch.float32)


def _find_top1(logits: Tensor) -> Ints:
    """Check that the logits are finite, and find each row's top-1, ties to the lower index."""
    if logits.device.type == "cpu":  # numpy's argmax is 15 times faster than torch's on the CPU
        rows = logits.numpy()
        finite, top1 = np.isfinite(rows).all(), rows.argmax(axis=1)
    else:
        finite, top1 = logits.isfinite().all(), logits.argmax(dim=1).cpu().numpy()
    if not finite:
        raise LogitsRejected("expected finite logits, got NaN or infinity")
    found: Ints = top1
    return found


def _check_tensors(policy: Policy, proposal: Proposal, logits: Tensor) -> None:
    """Check the proposal's types and shapes, before anything is copied from the device."""
    if type(proposal) is not Proposal:
        raise PolicyViolation("expected a Proposal, got another type")
    indices, kept = proposal.indices, proposal.logits
    if type(indices) is not Tensor or type(kept) is not Tensor:
        raise PolicyViolation("expected plain tensors in the proposal, got another type")
    if indices.dtype is not torch.int64 or kept.dtype not in FLOATING:
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
    """Check that indices are in range and unique, and that values are finite."""
    if indices.view(np.uint64).max() >= num_classes:  # as uint64, a negative index is large
        raise PolicyViolation(f"expected indices 0..{num_classes - 1}, got one out of range")
    rising = np.sort(indices, axis=1)
    if (rising[:, 1:] == rising[:, :-1]).any():
        raise PolicyViolation("expected unique indices in each row, got one twice")
    if not np.isfinite(kept).all():
        raise PolicyViolation("expected finite values, got NaN or infinity")
