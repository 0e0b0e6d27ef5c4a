"""The one way out of the model worker. Invariant: what leaves kept every promise of its policy."""

import math

import torch
from torch import Tensor

from stingy_protection.answers import ScoreForm, SparseLogits
from stingy_protection.errors import LogitsRejected, PolicyViolation, ProtectionError
from stingy_protection.policy import Policy, Proposal

ACCEPTED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
        judge = logits.clone()  # taken before the policy could touch the logits
        proposal = propose(policy, logits)
        _check_form(policy, proposal, judge)
        indices = proposal.indices.to("cpu", copy=True)
        kept = proposal.logits.to("cpu", torch.float32)
        _check_entries(indices, kept, judge)
        if policy.keeps_top1:
            _check_top1(proposal.indices[:, :1], judge)
        scores = _scores(kept, policy.scores)
        if scores is not None and policy.scores is not ScoreForm.RANK:
            indices, scores = _listed(indices, scores, policy)
        return SparseLogits(
            indices=indices,
            scores=scores,
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
    lifted = logits.to(torch.float32)
    if not _all_finite(lifted):
        raise LogitsRejected("expected finite logits, got NaN or infinity")
    return lifted


def _all_finite(values: Tensor) -> bool:
    # A NaN or an infinity never sums to something finite, and one sum is far cheaper than
    # looking at every value; finite values may overflow, so a bad sum is looked into.
    return math.isfinite(values.sum().item()) or bool(values.isfinite().all())


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


def _check_entries(indices: Tensor, kept: Tensor, judge: Tensor) -> None:
    """Range, uniqueness, finiteness. `indices` and `kept` on the CPU, `judge` the raw logits."""
    lowest, highest = indices.aminmax()
    if int(lowest) < 0 or int(highest) >= judge.shape[1]:
        raise PolicyViolation(f"expected indices 0..{judge.shape[1] - 1}, got one out of range")
    # Where the raw logits fall strictly along a row, no index can stand there twice; the other
    # rows are looked at closely. (The flat pass is faster; steps from row to row do not count.)
    raw = judge.gather(1, indices.to(judge.device))
    flat = raw.flatten()
    rises = flat[1:] >= flat[:-1]
    rises[indices.shape[1] - 1 :: indices.shape[1]] = False
    if rises.any():
        rows = (raw[:, 1:] >= raw[:, :-1]).any(dim=1).cpu()
        ordered = indices[rows].sort(dim=1).values
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise PolicyViolation("expected unique indices in each row, got one twice")
    if not _all_finite(kept):
        raise PolicyViolation("expected finite values, got NaN or infinity")


def _check_top1(claimed: Tensor, judge: Tensor) -> None:
    """Demand that `claimed` `[batch, 1]` is the argmax, ties to the lower index; spoils `judge`."""
    top = judge.gather(1, claimed)
    # The best of the others, far cheaper than argmax, which is asked only where a tie is possible.
    others = judge.scatter_(1, claimed, -torch.inf).amax(dim=1, keepdim=True)
    doubtful = (others >= top).squeeze(1)
    judge.scatter_(1, claimed, top)
    if doubtful.any() and (judge[doubtful].argmax(dim=1) != claimed[doubtful, 0]).any():
        raise PolicyViolation("expected the top-1 class first, got another")


def _scores(kept: Tensor, form: ScoreForm) -> Tensor | None:
    """The scores `[batch, n]` in the given form, in float64 except for ranks."""
    if form is ScoreForm.NONE:
        return None
    if form is ScoreForm.RANK:
        return torch.arange(1, kept.shape[1] + 1, dtype=torch.float32).repeat(kept.shape[0], 1)
    # float64: the answer must not depend on how a row was laid out among its neighbours.
    exact = kept.double()
    if form is ScoreForm.LOG_PROB:
        return exact.log_softmax(dim=1)
    if form is ScoreForm.PROB:
        return exact.softmax(dim=1)
    return exact


def _listed(indices: Tensor, scores: Tensor, policy: Policy) -> tuple[Tensor, Tensor]:
    """Round float64 scores (spoilt) to the grid, and order the list so that it tells no more.

    The first entry stays; the others go by falling rounded score, then by rising index.
    """
    # Whole grid steps, rising as the score falls.
    steps = scores.mul_(-(10.0**policy.decimals)).round_()
    # One sort of keys "steps, then index", as int32 where they fit: half the memory of int64.
    index_bits = (policy.num_classes - 1).bit_length()
    lowest, highest = steps.aminmax()
    if index_bits > 30 or max(-lowest, highest).item() >= 2 ** (30 - index_bits):
        return _listed_far(indices, _on_grid(steps, policy.decimals))
    rising = steps.int()
    keys = (rising << index_bits).bitwise_or_(indices.int())
    keys[:, 0] = torch.iinfo(torch.int32).min
    keys = keys.sort(dim=1).values
    listed = keys.bitwise_and(2**index_bits - 1).long()
    listed[:, 0] = indices[:, 0]
    keys >>= index_bits
    keys[:, 0] = rising[:, 0]
    return listed, _on_grid(keys.double(), policy.decimals)


def _on_grid(steps: Tensor, decimals: int) -> Tensor:
    """Falling grid steps (float64, spoilt) as float32 scores, never -0.0."""
    return steps.div_(-(10.0**decimals)).float().add_(0.0)


def _listed_far(indices: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The same order for scores too far from 0 for keys, at the price of two sorts."""
    # Two finite float32 logits can lie further apart than float32 reaches.
    scores = scores.clamp(min=torch.finfo(torch.float32).min)
    by_index = indices[:, 1:].sort(dim=1)
    tail = scores[:, 1:].gather(1, by_index.indices).sort(dim=1, descending=True, stable=True)
    return (
        torch.cat([indices[:, :1], by_index.values.gather(1, tail.indices)], dim=1),
        torch.cat([scores[:, :1], tail.values], dim=1),
    )
