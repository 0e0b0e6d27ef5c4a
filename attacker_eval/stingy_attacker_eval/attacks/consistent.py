"""Consistent distillation: every augmented view that the student trains on has its own answer."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from stingy_attacker_eval.attacks.base import (
    Attack,
    AttackContext,
    AttackerData,
    Capability,
    check_positive,
)
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.attacks.paper_kd import PaperKd
from stingy_attacker_eval.attacks.rank_and_label import RankAndLabel
from stingy_attacker_eval.attacks.rank_distillation import RankDistillation
from stingy_attacker_eval.attacks.soft_label import SoftLabel
from stingy_attacker_eval.attacks.subset_kl import SubsetKl
from stingy_attacker_eval.attacks.two_labels import TwoLabels
from stingy_attacker_eval.training import TrainResult, augment

_INNER: dict[str, type[Attack]] = {
    attack.name: attack
    for attack in (
        LabelOnly,
        TwoLabels,
        PaperKd,
        SoftLabel,
        SubsetKl,
        RankDistillation,
        RankAndLabel,
    )
}


@dataclass(frozen=True, kw_only=True)
class Consistent(Attack):
    """Another attack, with one answer for each view of an image instead of one for all views.

    The attacker queries `views` of each own image: the image itself, and copies shifted and
    mirrored by the protocol's `augment` and `flip`. The student trains on these views only. They
    are the same in every run, so an audit buys them once.

    The attacker needs its own images with true labels, and queries during the run. The inner
    attack decides whether the labels are used.

    attack: the inner attack that trains on the answers, with its default settings.
    views: queries for each image.

    Measured on the digits (stingy, N = 2, cnn_tiny, 5 epochs, 3 seeds, deviation over seeds):
    96.8 +- 0.6 % for 5,188 queries, and soft_label 95.7 +- 0.6 % for 1,297.

    With one view an epoch and `paper_kd` this is the training loop that the papers published.
    That loop queries every batch after its augmentation.

    References:
        "Knowledge Distillation: A Good Teacher Is Patient and Consistent" (Beyer et al., CVPR
        2022), section 3.
    """

    name: ClassVar[str] = "consistent"
    title: ClassVar[str] = "another attack, on an answer of its own for every view"
    reference: ClassVar[str] = "Beyer et al. 2022, section 3"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS, Capability.QUERIES})

    attack: str = "soft_label"
    views: int = 4

    def __post_init__(self) -> None:
        check_positive(views=self.views)
        if self.attack not in _INNER:
            raise ValueError(f'expected an attack out of {", ".join(_INNER)}, got "{self.attack}"')

    @property
    def uses_true_labels(self) -> bool:
        return _INNER[self.attack]().uses_true_labels

    @property
    def reads_list(self) -> bool:
        return _INNER[self.attack]().reads_list

    def budget(self, images: int) -> int:
        return images * self.views

    def unsupported_reason(self, data: AttackerData) -> str | None:
        return _INNER[self.attack]().skip_reason(data)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        generator = context.generator(seed=0)
        augmented_images = [
            augment(context.images, context.settings, generator) for _ in range(1, self.views)
        ]
        views = torch.cat([context.images, *augmented_images])
        answers = context.session.query(views)
        views_data = AttackerData.from_answers(
            views, context.labels.repeat(self.views), answers, context.info
        )
        return _INNER[self.attack]().run(
            student,
            replace(views_data, owned=context.owned),
            settings=replace(context.settings, augment=0, flip=False),
            seed=context.seed,
        )
