"""Policies that let out a ranked list and a coarse confidence, and nothing else.

Invariant: the scores depend on the rank and on the top-1's bucket alone.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from stingy_protection.errors import PolicyConfigError
from stingy_protection.files import read_regular_file
from stingy_protection.policies.base import Policy, Proposal, best_first, is_integer

Lists: TypeAlias = tuple[tuple[int, ...], ...]
MAX_BUCKETS = 100
MAX_LISTS_BYTES = 64 * 2**20
# Sums that differ in the last bit must not fall on two sides of a bucket's edge.
_CONFIDENCE_DECIMALS = 9


@dataclass(frozen=True, kw_only=True)
class RankedBuckets(Policy):
    """The N best classes in order, with the top-1's probability rounded to a few buckets.

    The top-1's score is the middle of its bucket. The other classes share the rest in falling
    parts: rank j gets a part in proportion to 1/(n + j - 1). We chose these parts, and they carry
    no information: they keep the order visible on the grid and the second class below the first.
    Only the list and the bucket leave.

    Args:
        n: N, 1..num_classes. With 1, renormalisation removes the bucket.
        buckets: the number of equal parts of 0..1, 1..100.
    """

    name: ClassVar[str] = "ranked_buckets"
    n: int
    buckets: int = 4

    @property
    def support(self) -> int:
        return self.n

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from _find_bucket_faults(self.buckets)

    def propose(self, logits: Tensor) -> Proposal:
        _, indices = best_first(logits, self.n)
        return Proposal(indices, _compute_scores(logits, self.n, self.buckets))


def read_prototypes(path: str) -> Lists:
    """Read the canonical lists that `write_prototypes` stored.

    Raises:
        ValueError: if the file cannot be read or has no lists.
    """
    try:
        content = json.loads(read_regular_file(path, max_bytes=MAX_LISTS_BYTES))
        return tuple(tuple(row) for row in content["lists"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("expected a file of canonical lists, got another") from None


@dataclass(frozen=True, kw_only=True)
class ClassPrototype(Policy):
    """The predicted class's canonical list, with the bucket of the confidence.

    All answers together leak one list per class and, for each input, its class and a bucket.

    Args:
        lists: one list per class: the class itself first, then the others as `class_prototypes`
            ranks them. In a policy's text, the path of a file by `write_prototypes`.
        n: N, the number of entries of the list that leave, 1..num_classes.
        buckets: the number of equal parts of 0..1, 1..100.
    """

    name: ClassVar[str] = "class_prototype"
    lists: Lists = field(repr=False, metadata={"read": read_prototypes})
    n: int
    buckets: int = 4

    @property
    def support(self) -> int:
        return self.n

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from _find_bucket_faults(self.buckets)
        if not _are_lists(self.lists, self.num_classes, self.n):
            yield (
                f"expected lists of {self.num_classes} classes, each with n = {self.n!r} or more "
                "different classes and its own first, got others"
            )

    @cached_property
    def _table(self) -> Tensor:
        return torch.tensor([row[: self.n] for row in self.lists])

    def propose(self, logits: Tensor) -> Proposal:
        _, top1 = best_first(logits, 1)
        indices = self._table.to(logits.device)[top1[:, 0]]
        return Proposal(indices, _compute_scores(logits, self.n, self.buckets))


def class_prototypes(logits: Tensor, *, n: int) -> Lists:
    """Compute the canonical list of every class from logits of inputs that no client will query.

    A class's list starts with the class itself. The others follow by their mean log-probability
    over the rows predicted as that class. If no row is predicted as it, the mean is over all rows.

    Args:
        logits: finite, floating `[rows, classes]`, at least one row.
        n: the length of the lists, 1..classes.

    Raises:
        PolicyConfigError: if the logits or n are not as described.
    """
    if logits.dim() != 2 or not logits.is_floating_point() or not logits.isfinite().all():
        raise PolicyConfigError(("expected finite logits [rows, classes], got others",))
    if len(logits) == 0 or not is_integer(n) or not 1 <= n <= logits.shape[1]:
        raise PolicyConfigError((f"expected rows and n of 1..{logits.shape[1]}, got n = {n!r}",))
    log_probabilities = logits.detach().cpu().double().log_softmax(dim=1)
    top1 = best_first(log_probabilities, 1)[1][:, 0]
    lists = []
    for label in range(logits.shape[1]):
        own = log_probabilities[top1 == label]
        mean = (own if len(own) else log_probabilities).mean(dim=0, keepdim=True)
        mean[0, label] = torch.inf
        lists.append(tuple(best_first(mean, n)[1][0].tolist()))
    return tuple(lists)


def write_prototypes(path: Path, lists: Lists) -> None:
    """Store canonical lists as JSON, for `class_prototype:lists=PATH`."""
    path.write_text(json.dumps({"lists": lists}) + "\n", encoding="utf-8")


def _compute_scores(logits: Tensor, n: int, buckets: int) -> Tensor:
    """Compute log-probabilities `[batch, n]`: the bucket's middle, then falling parts."""
    # float64 and rounded, because the bucket must not depend on the layout of the batch.
    confidence = logits.double().softmax(dim=1).amax(dim=1, keepdim=True)
    bucket = (confidence.round(decimals=_CONFIDENCE_DECIMALS) * buckets).floor()
    middle = (bucket.clamp_max(buckets - 1) + 0.5) / buckets
    if n == 1:
        return middle.log().to(logits.dtype)
    shape = 1 / torch.arange(n + 1, 2 * n, dtype=torch.float64, device=logits.device)
    others = (1 - middle) * shape / shape.sum()
    # In a low bucket of a short list, the second would otherwise exceed the first.
    head = torch.maximum(middle, others[:, :1])
    return torch.cat([head, others], dim=1).log().to(logits.dtype)


def _find_bucket_faults(buckets: object) -> Iterator[str]:
    if not (isinstance(buckets, int) and is_integer(buckets) and 1 <= buckets <= MAX_BUCKETS):
        yield f"expected buckets to be an integer 1..{MAX_BUCKETS}, got {buckets!r}"


def _are_lists(lists: object, num_classes: int, n: object) -> bool:
    return (
        isinstance(lists, tuple)
        and len(lists) == num_classes
        and all(
            isinstance(row, tuple)
            and all(is_integer(entry) and 0 <= entry < num_classes for entry in row)
            and len(set(row)) == len(row)
            and isinstance(n, int)
            and len(row) >= n
            and row[:1] == (label,)
            for label, row in enumerate(lists)
        )
    )
