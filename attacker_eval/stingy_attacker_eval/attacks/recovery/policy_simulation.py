"""Simulations of the policies, for attackers who apply a policy to their own networks."""

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.attacks.recovery.modelguard_copy import disturb
from stingy_clients import ModelInfo

SUPPORTED_POLICIES = (
    "class_prototype",
    "keyed_noise",
    "label",
    "modelguard_w",
    "open",
    "ranked_buckets",
    "ranked_labels",
    "reverse_sigmoid",
    "reversed",
    "rounded",
    "stingy",
    "stingy_smooth",
)


@dataclass(frozen=True)
class PolicyOptions:
    """The policy options that an endpoint's description lacks, at the policies' defaults.

    beta, gamma: options of reverse_sigmoid.
    buckets: option of ranked_buckets and class_prototype.
    kept: N of stingy_smooth.
    eps: option of modelguard_w.
    sigma: option of keyed_noise. The secret stays unknown, so a simulation draws its own noise.
    lists: class_prototype's lists, int64 `[classes, N]`, read from its answers.
    """

    beta: float = 0.2
    gamma: float = 0.2
    buckets: int = 4
    kept: int = 2
    eps: float = 1.0
    sigma: float = 1.0
    lists: Tensor | None = field(default=None, repr=False)


def simulation_unsupported_reason(info: ModelInfo) -> str | None:
    """Return why this policy cannot be simulated; None if it can."""
    if info.policy in SUPPORTED_POLICIES:
        return None
    known = ", ".join(SUPPORTED_POLICIES)
    return f"needs a policy it can simulate ({known}), and this is {info.policy}"


def simulate_policy(logits: Tensor, info: ModelInfo, options: PolicyOptions) -> Tensor:
    """Compute the endpoint's answers to logits `[n, classes]`: same shape, -inf where withheld.

    Gradients flow through the answered scores. Answers without scores are given as `rank_scores`.
    `simulation_unsupported_reason(info)` must be None.
    """
    values, indices = _propose(logits, info, options)
    if info.scores in ("none", "rank"):
        return rank_scores(indices, logits.shape[1])
    if info.scores == "prob":
        values = functional.softmax(values, dim=1)
        scores = _round_to_grid(values, info.decimals).clamp_min(0.0).log()
        # A row whose scores all round to zero still names its top-1.
        all_zero = scores.isinf().all(dim=1, keepdim=True)
        first = torch.arange(scores.shape[1], device=scores.device) == 0
        scores = torch.where(all_zero & first, 0.0, scores)
    else:
        values = values if info.scores == "logit" else functional.log_softmax(values, dim=1)
        scores = _round_to_grid(values, info.decimals)
    return torch.full_like(logits, -torch.inf).scatter(1, indices, scores)


def rank_scores(indices: Tensor, num_classes: int) -> Tensor:
    """Return ranks as scores: 0 for the best class, -1 for the next, -inf where withheld.

    indices: answered classes, int64 `[n, N]`, best first.
    """
    scores = torch.full((len(indices), num_classes), -torch.inf, device=indices.device)
    places = -torch.arange(indices.shape[1], device=indices.device).float()
    return scores.scatter(1, indices, places.expand(len(indices), -1))


def find_class_lists(indices: Tensor, num_classes: int) -> Tensor:
    """Find the most frequent answered list under each top-1, int64 `[classes, N]`.

    A class that was never the top-1 gets the classes that follow it by number.

    indices: answered classes, int64 `[n, N]`, best first.
    """
    found = {
        label: _most_common_row(indices[indices[:, 0] == label])
        for label in set(indices[:, 0].tolist())
    }
    offsets = torch.arange(indices.shape[1], device=indices.device)
    return torch.stack(
        [found.get(label, (offsets + label) % num_classes) for label in range(num_classes)]
    )


def _propose(logits: Tensor, info: ModelInfo, options: PolicyOptions) -> tuple[Tensor, Tensor]:
    """Return the policy's scores and classes `[n, N]`, best first, before rounding."""
    values, indices = logits.topk(info.support, dim=1)
    match info.policy:
        case "reversed":
            return values, torch.cat([indices[:, :1], indices[:, 1:].flip(1)], dim=1)
        case "stingy_smooth":
            hidden = values[:, options.kept :]
            if not hidden.shape[1]:
                return values, indices
            share = hidden.logsumexp(dim=1, keepdim=True) - torch.tensor(hidden.shape[1]).log()
            return torch.cat([values[:, : options.kept], share.expand_as(hidden)], 1), indices
        case "reverse_sigmoid":
            log_y = functional.log_softmax(values, dim=1)
            y = log_y.exp()
            pull = torch.sigmoid(options.gamma * (log_y - torch.log1p(-y.clamp_max(1 - 1e-6))))
            disturbed = y - options.beta * (pull - 0.5)
            first = disturbed.amax(dim=1, keepdim=True)
            return torch.cat([first, disturbed[:, 1:]], dim=1).clamp_min(1e-30).log(), indices
        case "keyed_noise":
            disturbed = values + options.sigma * torch.randn_like(values)
            first = disturbed.amax(dim=1, keepdim=True)
            return torch.cat([first, disturbed[:, 1:]], dim=1), indices
        case "modelguard_w":
            disturbed = disturb(functional.softmax(values, dim=1), options.eps)
            return disturbed.clamp_min(1e-9).log(), indices
        case "ranked_buckets":
            return _bucket_scores(logits, info.support, options.buckets), indices
        case "class_prototype":
            lists = indices if options.lists is None else options.lists[indices[:, 0]]
            return _bucket_scores(logits, info.support, options.buckets), lists
        case _:
            return values, indices


def _bucket_scores(logits: Tensor, count: int, buckets: int) -> Tensor:
    """Compute log-probabilities `[n, count]` of ranked buckets.

    The top-1 gets the middle of its bucket. Rank j gets a share of the rest, in proportion to
    1/(N + j - 1).
    """
    confidence = functional.softmax(logits, dim=1).amax(dim=1, keepdim=True)
    middle = ((confidence * buckets).floor().clamp_max(buckets - 1) + 0.5) / buckets
    if count == 1:
        return middle.log()
    shape = 1 / torch.arange(count + 1, 2 * count, device=logits.device)
    others = (1 - middle) * shape / shape.sum()
    return torch.cat([torch.maximum(middle, others[:, :1]), others], dim=1).log()


def _round_to_grid(values: Tensor, decimals: int) -> Tensor:
    """Round values, and pass the gradient as if they were not rounded."""
    return values + (values.detach().round(decimals=decimals) - values.detach())


def _most_common_row(rows: Tensor) -> Tensor:
    counts = Counter(tuple(row) for row in rows.tolist())
    return torch.tensor(counts.most_common(1)[0][0], device=rows.device)
