"""The one way out of the model worker. Invariant: what leaves kept every promise of its policy."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stingy_protection.answers import ScoreForm, SparseLogits
from stingy_protection.errors import LogitsRejected, PolicyViolation, ProtectionError
from stingy_protection.policy import Policy, Proposal

ACCEPTED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# What is small and on the CPU is numpy's: for a single row each call costs a tenth of torch's.
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]


def sanitize(policy: Policy, logits: Tensor) -> SparseLogits:
    """Apply a policy to raw logits and let out what it may tell, and no more.

    The policy proposes, the gate disposes. Scores are rounded to the policy's grid, and classes
    whose rounded scores are equal are listed by index, so that the order of the list never tells
    more than the scores do; only the top-1 stays first whatever its score.

    Args:
        policy: what may leave.
        logits: floating `[batch, classes]`, at least one row, finite, without gradients.

    Returns:
        N <= policy.support classes of each row, in fresh CPU storage. Only N values of a row are
        copied off the logits' device.

    Raises:
        LogitsRejected: the logits are not as described.
        PolicyViolation: the policy failed or broke a promise.
    """
    # An answer must be an ordinary tensor even where the model ran in inference mode.
    with torch.inference_mode(False), torch.no_grad():
        logits = _accepted(policy, logits)
        top1 = _inspected(logits)  # before the policy could touch the logits
        proposal = propose(policy, logits)
        _check_form(policy, proposal, logits)
        indices = proposal.indices.cpu().numpy().copy()
        kept = proposal.logits.to("cpu", torch.float32).numpy().astype(np.float64)
        _check_entries(indices, kept, policy.num_classes)
        if policy.keeps_top1 and not np.array_equal(indices[:, 0], top1):
            raise PolicyViolation("expected the top-1 class first, got another")
        indices, scores = _told(indices, kept, policy)
        return SparseLogits(
            indices=torch.from_numpy(indices),
            scores=None if scores is None else torch.from_numpy(scores),
            num_classes=policy.num_classes,
            form=policy.scores,
            decimals=policy.decimals,
        )


def propose(policy: Policy, logits: Tensor) -> Proposal:
    """Ask the policy, and turn whatever it raises into a PolicyViolation without a trace."""
    failed = False
    try:
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
    if indices.min() < 0 or indices.max() >= num_classes:
        raise PolicyViolation(f"expected indices 0..{num_classes - 1}, got one out of range")
    seen = np.zeros(len(indices) * num_classes, np.bool_)
    seen[indices + np.arange(len(indices))[:, None] * num_classes] = True
    if np.count_nonzero(seen) != indices.size:
        raise PolicyViolation("expected unique indices in each row, got one twice")
    if not np.isfinite(kept).all():
        raise PolicyViolation("expected finite values, got NaN or infinity")


def _told(indices: Ints, kept: Floats, policy: Policy) -> tuple[Ints, Floats32 | None]:
    """The list as it leaves: scores in the policy's form and on its grid, in canonical order."""
    if policy.scores is ScoreForm.NONE:
        return indices, None
    if policy.scores is ScoreForm.RANK:
        ranks = np.arange(1, indices.shape[1] + 1, dtype=np.float32)
        return indices, np.tile(ranks, (len(indices), 1))
    return _listed(indices, _on_grid(_scores(kept, policy.scores), policy.decimals))


def _scores(kept: Floats, form: ScoreForm) -> Floats:
    """The scores `[batch, n]` before rounding; in float64, whose own rounding the grid hides."""
    if form is ScoreForm.LOGIT:
        return kept
    shifted = kept - kept.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    result: Floats = exponentials / total if form is ScoreForm.PROB else shifted - np.log(total)
    return result


def _on_grid(scores: Floats, decimals: int) -> Floats32:
    """Rounded to the grid, never -0.0, never beyond what float32 reaches."""
    steps = 10.0**decimals
    largest = np.finfo(np.float32).max
    rounded = np.rint(scores * steps) / steps + 0.0
    return np.clip(rounded, -largest, largest).astype(np.float32)


def _listed(indices: Ints, scores: Floats32) -> tuple[Ints, Floats32]:
    """The first entry stays; the others go by falling score, then by rising index."""
    # One sort of integers, score above index: the bits of a float32 rise with its value once the
    # lower bits of the negative ones are flipped. Sorting by two keys takes 20 times as long.
    bits = scores.view(np.int32)
    falling = ~(bits ^ (bits >> 31 & 0x7FFFFFFF))
    keys = falling.astype(np.int64) << 32 | indices
    keys[:, 1:].sort(axis=1)
    falling = ~(keys >> 32).astype(np.int32)
    return keys & 0xFFFFFFFF, (falling ^ (falling >> 31 & 0x7FFFFFFF)).view(np.float32)
