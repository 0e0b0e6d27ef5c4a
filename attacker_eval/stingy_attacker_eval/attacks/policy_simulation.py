"""Policies as an attacker writes them down, to try them on networks of its own."""

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from stingy_clients import ModelInfo

KNOWN = (
    "class_prototype",
    "open",
    "ranked_buckets",
    "reverse_sigmoid",
    "reversed",
    "rounded",
    "stingy",
    "stingy_smooth",
)


@dataclass(frozen=True)
class PolicyOptions:
    """What an endpoint's description leaves out of its policy, at the policies' defaults.

    kept: N of stingy_smooth; lists: class_prototype's, int64 `[classes, N]`, seen in its answers.
    """

    beta: float = 0.2
    gamma: float = 0.2
    buckets: int = 4
    kept: int = 2
    lists: Tensor | None = field(default=None, repr=False)


def simulation_unsupported_reason(info: ModelInfo) -> str | None:
    """Why this policy cannot be simulated; None when it can."""
    if info.policy in KNOWN:
        return None
    return f"needs a policy it can simulate ({', '.join(KNOWN)}), and this is {info.policy}"


def simulate_policy(logits: Tensor, info: ModelInfo, options: PolicyOptions) -> Tensor:
    """Return the answers of the policy for logits `[n, classes]`: the same shape, -inf withheld.

    Gradients flow through the kept scores. info must pass simulation_unsupported_reason.
    """
    values, indices = _propose(logits, info, options)
    if info.scores == "prob":
        values = functional.softmax(values, dim=1)
        scores = _on_grid(values, info.decimals).clamp_min(0.0).log()
        # A row rounded to zero throughout still names its top-1.
        lost = scores.isinf().all(dim=1, keepdim=True)
        first = torch.arange(scores.shape[1], device=scores.device) == 0
        scores = torch.where(lost & first, 0.0, scores)
    else:
        values = values if info.scores == "logit" else functional.log_softmax(values, dim=1)
        scores = _on_grid(values, info.decimals)
    return torch.full_like(logits, -torch.inf).scatter(1, indices, scores)


def class_lists(indices: Tensor, num_classes: int) -> Tensor:
    """The list most often answered under each top-1, int64 `[classes, N]`; indices `[n, N]`."""
    found = {
        label: _most_common(indices[indices[:, 0] == label])
        for label in set(indices[:, 0].tolist())
    }
    plain = torch.arange(indices.shape[1], device=indices.device)
    return torch.stack(
        [found.get(label, (plain + label) % num_classes) for label in range(num_classes)]
    )


def _propose(logits: Tensor, info: ModelInfo, options: PolicyOptions) -> tuple[Tensor, Tensor]:
    """The policy's scores and classes `[n, N]`, best first."""
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
        case "ranked_buckets":
            return _bucketed(logits, info.support, options.buckets), indices
        case "class_prototype":
            lists = indices if options.lists is None else options.lists[indices[:, 0]]
            return _bucketed(logits, info.support, options.buckets), lists
        case _:
            return values, indices


def _bucketed(logits: Tensor, count: int, buckets: int) -> Tensor:
    """The middle of the top-1's bucket, then the rest: rank j as 1/(N + j - 1); `[n, count]`."""
    confidence = functional.softmax(logits, dim=1).amax(dim=1, keepdim=True)
    middle = ((confidence * buckets).floor().clamp_max(buckets - 1) + 0.5) / buckets
    if count == 1:
        return middle.log()
    shape = 1 / torch.arange(count + 1, 2 * count, device=logits.device)
    others = (1 - middle) * shape / shape.sum()
    return torch.cat([torch.maximum(middle, others[:, :1]), others], dim=1).log()


def _on_grid(values: Tensor, decimals: int) -> Tensor:
    """Rounded, with the gradient of what was not."""
    return values + (values.detach().round(decimals=decimals) - values.detach())


def _most_common(rows: Tensor) -> Tensor:
    counts = Counter(tuple(row) for row in rows.tolist())
    return torch.tensor(counts.most_common(1)[0][0], device=rows.device)
