"""Label votes: several labels of each image, from an endpoint that answers only the top-1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, AttackContext, Capability, least_faults
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.attacks.two_labels import TwoLabels
from stingy_attacker_eval.attacks.views.view_answers import buy_views, train_on_views
from stingy_attacker_eval.training import TrainResult


@dataclass(frozen=True, kw_only=True)
class LabelVotes(Attack):
    """Training on the labels of several views of each image.

    The attacker queries `views` of each own image: the image itself, and copies shifted and
    mirrored by the protocol's `augment` and `flip`. With `average` the target of an image is the
    share of the views that got each label: L = CE(student, shares). Without it, the student trains
    on the views themselves, each with its own label. With `true_labels` the loss is half of this
    and half of CE(student, true label).

    The attacker needs answers for its own images, and queries during the run. It needs no scores.

    views: labels of each image.
    average: average the labels of an image. If not, each view has its own label.
    true_labels: use the true labels, too.

    Its control is `label_only`, or `two_labels` with true labels: one label of each image. The
    control for the views alone is `consistent` with `attack = "no_api"`.

    References:
        "ModelGuard" (Tang et al., USENIX Security 2024), its attack with several queries per
        image; "Copycat CNN" (Correia-Silva et al., IJCNN 2018), section III, on labels alone.
    """

    name: ClassVar[str] = "label_votes"
    title: ClassVar[str] = "the labels of several views of each image"
    reference: ClassVar[str] = "after Tang et al. 2024, ModelGuard, on labels alone"
    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ANSWERS, Capability.LABELS, Capability.QUERIES}
    )

    views: int = 9
    average: bool = True
    true_labels: bool = False

    def faults(self) -> Iterator[str]:
        yield from least_faults(2, views=self.views)

    @property
    def needs(self) -> frozenset[Capability]:
        return self.requires if self.true_labels else self.requires - {Capability.LABELS}

    @property
    def reads_top1_only(self) -> bool:
        return True

    def budget(self, images: int) -> int:
        return images * (self.views - 1)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        bought = buy_views(context, self.views)
        if not self.average:
            inner = TwoLabels() if self.true_labels else LabelOnly()
            return train_on_views(inner, student, context, bought)
        assert bought.top1 is not None  # noqa: S101 - the attack needs answers
        shares = label_shares(bought.top1.view(self.views, -1), context.info.num_classes)

        def loss(student_logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
            votes = functional.cross_entropy(student_logits, shares[rows])
            if not self.true_labels:
                return votes
            return (votes + functional.cross_entropy(student_logits, context.labels[rows])) / 2

        return context.train(student, context.images, loss, pure=True)


def label_shares(labels: Tensor, num_classes: int) -> Tensor:
    """Compute the share of each label, float32 `[n, classes]`.

    labels: int64 `[views, n]`.
    """
    return functional.one_hot(labels, num_classes).float().mean(dim=0)
