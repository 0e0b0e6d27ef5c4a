"""Consistent distillation: every augmented view that the student trains on has its own answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from stingy_attacker_eval.attacks.base import (
    Attack,
    AttackContext,
    AttackerData,
    Capability,
    positive_faults,
)
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.attacks.lists.rank_and_label import RankAndLabel
from stingy_attacker_eval.attacks.lists.rank_distillation import RankDistillation
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.attacks.scores.paper_kd import PaperKd
from stingy_attacker_eval.attacks.scores.soft_label import SoftLabel
from stingy_attacker_eval.attacks.scores.subset_kl import SubsetKl
from stingy_attacker_eval.attacks.two_labels import TwoLabels
from stingy_attacker_eval.attacks.views.view_answers import buy_views, make_views, train_on_views
from stingy_attacker_eval.training import TrainResult

_INNER: dict[str, type[Attack]] = {
    attack.name: attack
    for attack in (
        NoApi,
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

    The attacker needs answers for its own images, and queries during the run. The inner attack
    decides whether scores and true labels are needed.

    attack: the inner attack that trains on the answers. "no_api" trains on the same views with
        true labels and queries nothing: the control of all attacks on views.
    views: answers for each image.
    tau, alpha, n: settings of the inner attack, None for its defaults.

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
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ANSWERS, Capability.SCORES, Capability.LABELS, Capability.QUERIES}
    )

    attack: str = "soft_label"
    views: int = 4
    tau: float | None = None
    alpha: float | None = None
    n: int | None = None

    def faults(self) -> Iterator[str]:
        yield from positive_faults(views=self.views)
        if self.attack not in _INNER:
            yield f'expected an attack out of {", ".join(_INNER)}, got "{self.attack}"'
            return
        try:
            _ = self.inner
        except (TypeError, ValueError) as error:
            yield str(error)

    @property
    def inner(self) -> Attack:
        """The inner attack with its settings. Raises TypeError or ValueError if they do not fit."""
        given = {"tau": self.tau, "alpha": self.alpha, "n": self.n}
        settings = {name: value for name, value in given.items() if value is not None}
        (attack,) = _INNER[self.attack].expand(settings)
        return attack

    @property
    def needs(self) -> frozenset[Capability]:
        if self.attack == NoApi.name:
            return self.inner.needs
        return self.inner.needs | {Capability.ANSWERS, Capability.QUERIES}

    @property
    def reads_top1_only(self) -> bool:
        return self.inner.reads_top1_only

    def budget(self, images: int) -> int:
        return 0 if self.attack == NoApi.name else images * (self.views - 1)

    def unsupported_reason(self, data: AttackerData) -> str | None:
        return self.inner.skip_reason(data)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        if self.attack == NoApi.name:
            labels = context.labels.repeat(self.views)
            data = AttackerData(make_views(context, self.views), labels=labels, owned=context.owned)
        else:
            data = buy_views(context, self.views)
        return train_on_views(self.inner, student, context, data)
