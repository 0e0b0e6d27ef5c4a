"""Queries with several views of each image: their answers name more classes than one answer."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, AttackContext, Capability
from stingy_attacker_eval.attacks.losses import kd_loss_fn
from stingy_attacker_eval.training import TrainResult

_MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))


@dataclass(frozen=True, kw_only=True)
class AugmentationUnion(Attack):
    """Distillation on the mean answer to several views of each image, and on mixed images.

    The attacker queries shifted and mirrored views of its own images. The target of an image is
    the mean of the probabilities answered for it and its views. Mixed images are added to the
    training set, each with its own answer. The loss is soft cross-entropy at tau 1.

    The attacker needs answers with scores for its own images, and queries during the run.
    Views and mixtures are the same in every run, so an audit buys them once.

    views: shifted copies of each image, by one pixel each, at most 8.
    flip: add the mirrored image as a view.
    mixtures: add one mixed image for each own image: 0.6 of it and 0.4 of another.

    Measured on the digits (stingy, N = 2, cnn_tiny, 5 epochs, 3 seeds, deviation over seeds):
    93.7 +- 0.3 % for 5,188 queries, and soft_label 95.7 +- 0.6 % for 1,297. The attack is not
    worth its cost there.

    References:
        "ModelGuard" (Tang et al., USENIX Security 2024), its attack with several queries per
        image; "mixup" (Zhang et al., ICLR 2018).
    """

    name: ClassVar[str] = "augmentation_union"
    title: ClassVar[str] = "answers to several views and mixtures of each image"
    reference: ClassVar[str] = "after Tang et al. 2024, ModelGuard, and Zhang et al. 2018, mixup"
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ANSWERS, Capability.SCORES, Capability.QUERIES}
    )

    views: int = 2
    flip: bool = False
    mixtures: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.views <= len(_MOVES):
            raise ValueError(f"expected views in 0..{len(_MOVES)}, got {self.views}")
        if not self.budget(1):
            raise ValueError("expected views, flip or mixtures, got none of them")

    def budget(self, images: int) -> int:
        return images * (self.views + self.flip + self.mixtures)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        images, logits = context.images, merge_views(context, self.views, flip=self.flip)
        if self.mixtures:
            order = torch.randperm(
                len(images), generator=context.generator(seed=0), device=context.device
            )
            mixed = (0.6 * images.float() + 0.4 * images[order].float()).round().byte()
            logits = torch.cat([logits, context.dense(context.session.query(mixed))])
            images = torch.cat([images, mixed])
        return context.train(student, images, kd_loss_fn(logits))


def merge_views(context: AttackContext, views: int, *, flip: bool) -> Tensor:
    """Return the log of the mean answered probabilities over each image and its views.

    views: shifted copies to query.
    flip: query the mirrored image, too.
    """
    view_images = [shift(context.images, *move) for move in _MOVES[:views]]
    if flip:
        view_images.append(context.images.flip(3))
    answers = [
        context.logits,
        *(context.dense(context.session.query(view)) for view in view_images),
    ]
    return torch.stack([functional.softmax(each, dim=1) for each in answers]).mean(0).log()


def shift(images: Tensor, down: int, right: int) -> Tensor:
    """Shift images `[n, 3, H, W]`; the border turns black.

    down, right: pixels, each -1, 0 or 1.
    """
    padded = functional.pad(images, (1, 1, 1, 1))
    height, width = images.shape[2:]
    top, left = 1 - down, 1 - right
    return padded[:, :, top : top + height, left : left + width]
