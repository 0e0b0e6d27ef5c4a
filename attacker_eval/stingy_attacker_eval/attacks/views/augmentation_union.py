"""Queries with several views of each image: their answers name more classes than one answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, AttackContext, Capability, least_faults
from stingy_attacker_eval.attacks.losses import kd_loss_fn, plackett_luce
from stingy_attacker_eval.attacks.views.label_votes import label_shares
from stingy_attacker_eval.attacks.views.view_answers import buy_views
from stingy_attacker_eval.training import TrainResult


@dataclass(frozen=True, kw_only=True)
class AugmentationUnion(Attack):
    """Distillation on the merged answers to several views of each image, and on mixed images.

    The attacker queries shifted and mirrored views of its own images and merges their answers:

    - Scores: the target is the mean of the answered probabilities. The loss is soft cross-entropy
      at tau 1.
    - Labels: the target is the share of the views that got each label, as in `label_votes`.
    - Ranks: the target is the order by Borda counts. In each view the best of N classes gets N
      points, the last one gets 1, and a withheld class gets none. The loss is that of
      `rank_distillation`, with classes of equal points as ties.

    Mixed images are added to the training set, each with its own answer.

    The attacker needs answers for its own images, and queries during the run. Views and mixtures
    are the same in every run, so an audit buys them once.

    views: answers for each image: the image itself, and shifted and mirrored copies.
    mixtures: add one mixed image for each own image: 0.6 of it and 0.4 of another.

    References:
        "ModelGuard" (Tang et al., USENIX Security 2024), its attack with several queries per
        image; "mixup" (Zhang et al., ICLR 2018); "Rank Aggregation Methods for the Web" (Dwork et
        al., WWW 2001), section 2, on Borda counts of partial lists.
    """

    name: ClassVar[str] = "augmentation_union"
    title: ClassVar[str] = "answers to several views and mixtures of each image"
    reference: ClassVar[str] = "after Tang et al. 2024, ModelGuard, and Zhang et al. 2018, mixup"
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ANSWERS, Capability.SCORES, Capability.QUERIES}
    )

    views: int = 9
    mixtures: bool = True

    def faults(self) -> Iterator[str]:
        yield from least_faults(1, views=self.views)
        if self.views == 1 and not self.mixtures:
            yield "expected more than one view, or mixtures, got neither"

    @property
    def needs(self) -> frozenset[Capability]:
        return self.requires - {Capability.SCORES}

    def budget(self, images: int) -> int:
        return images * (self.views - 1 + self.mixtures)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        images = torch.cat([context.images, self._mix(context)])
        if context.info.support > 1 and not context.has(Capability.SCORES):
            order, lengths, places = self._merge_orders(context)
            return context.train(
                student,
                images,
                lambda student_logits, rows, _: plackett_luce(
                    student_logits, order[rows], places[rows], lengths=lengths[rows]
                ),
                pure=True,
            )
        targets = self._merge_probabilities(context).log()
        return context.train(student, images, kd_loss_fn(targets), pure=True)

    def _mix(self, context: AttackContext) -> Tensor:
        """Return the mixed images, uint8 `[n, 3, H, W]`; none without `mixtures`."""
        images = context.images
        if not self.mixtures:
            return images[:0]
        order = torch.randperm(
            len(images), generator=context.generator(seed=0), device=context.device
        )
        return (0.6 * images.float() + 0.4 * images[order].float()).round().byte()

    def _merge_probabilities(self, context: AttackContext) -> Tensor:
        """Return the targets of images and mixtures, `[n or 2 n, classes]`."""
        bought = buy_views(context, self.views)
        if bought.logits is not None:
            probabilities = functional.softmax(bought.logits, dim=1)
            merged = probabilities.view(self.views, -1, probabilities.shape[1]).mean(dim=0)
        else:
            assert bought.top1 is not None  # noqa: S101 - the attack needs answers
            merged = label_shares(bought.top1.view(self.views, -1), context.info.num_classes)
        if not self.mixtures:
            return merged
        mixed = context.targets(context.session.query(self._mix(context)))
        return torch.cat([merged, functional.softmax(mixed, dim=1)])

    def _merge_orders(self, context: AttackContext) -> tuple[Tensor, Tensor, Tensor]:
        """Return orders, their lengths and places of images and mixtures; see `merge_orders`."""
        classes, bought = context.info.num_classes, buy_views(context, self.views)
        assert bought.indices is not None  # noqa: S101 - the attack needs answers
        views = bought.indices.view(self.views, -1, bought.indices.shape[1])
        points = borda_points(views, classes)
        if self.mixtures:
            answers = context.session.query(self._mix(context))
            mixed = torch.from_numpy(answers.indices).to(context.device)
            points = torch.cat([points, borda_points(mixed[None], classes)])
        return order_by_points(points)


def borda_points(orders: Tensor, num_classes: int) -> Tensor:
    """Sum the Borda points of several partial lists, float32 `[n, classes]`.

    orders: int64 `[views, n, N]`, best first. Place j of N is worth N - j points, from j = 0.
    """
    views, count, places = orders.shape
    worth = torch.arange(places, 0, -1, device=orders.device, dtype=torch.float32)
    points = torch.zeros(count, num_classes, device=orders.device)
    for view in range(views):
        points.scatter_add_(1, orders[view], worth.expand(count, -1))
    return points


def order_by_points(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's classes by falling points, the number of classes with points, and places.

    points: `[n, classes]`.

    The order is int64 `[n, M]`, where M is the largest number of classes with points in a row.
    The number is int64 `[n]`. The places are int64 `[n, M]`; classes with equal points share the
    first of their places.
    """
    found = points.sort(dim=1, descending=True, stable=True)
    lengths = (points > 0).sum(dim=1)
    most = int(lengths.max())
    falling = -found.values[:, :most].contiguous()
    return found.indices[:, :most], lengths, torch.searchsorted(falling, falling)
