"""Asking for what the student sees: a moved and mirrored image has an answer of its own."""

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
from stingy_attacker_eval.training import TrainResult, augmented

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
    """Another attack on answers to `views` of each image, in place of one answer for all of them.

    The views are the image, and the image moved and mirrored as the protocol has it; the student
    sees these and no others. They are the same in every run, so that an audit buys them once.
    attack: the one that learns from the answers, with its default settings.

    Measured on the digits (stingy, N = 2, cnn_tiny, 5 epochs, 3 seeds, deviation over seeds):
    96.8 +- 0.6 % for 5,188 questions, soft_label 95.7 +- 0.6 % for 1,297.

    With one view an epoch and `paper_kd` it is the published loop of the papers, which asks for
    every batch as it was moved and mirrored.

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

    def budget(self, images: int) -> int:
        return images * self.views

    def unsupported_reason(self, data: AttackerData) -> str | None:
        return _INNER[self.attack]().skip_reason(data)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        generator = context.generator(seed=0)
        moved = [
            augmented(context.images, context.settings, generator) for _ in range(1, self.views)
        ]
        views = torch.cat([context.images, *moved])
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
