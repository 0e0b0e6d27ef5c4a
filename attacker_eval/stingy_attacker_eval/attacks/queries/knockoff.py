"""Knockoff Nets: an attacker without images of the task queries images of another source."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from stingy_attacker_eval.attacks.base import (
    Attack,
    AttackContext,
    Capability,
    least_faults,
)
from stingy_attacker_eval.attacks.losses import kd_loss_fn
from stingy_attacker_eval.datasets.query_pools import SYNTHETIC
from stingy_attacker_eval.training import TrainResult


@dataclass(frozen=True, kw_only=True)
class Knockoff(Attack):
    """Distillation on answers to images of another source.

    The attacker queries images of a public pool and trains on the answers with soft
    cross-entropy at tau 1. If the endpoint gives no scores, its top-1 is the label.

    The attacker needs a pool of images and queries during the run. It needs no images and no
    labels of the task.

    pool: "synthetic" for drawn shapes, or a data set by name; never the audit's own.
    queries: images to query.

    References:
        "Knockoff Nets" (Orekondy et al., CVPR 2019), section 4.
    """

    name: ClassVar[str] = "knockoff"
    title: ClassVar[str] = "answers to images that are not of the task"
    reference: ClassVar[str] = "Orekondy et al. 2019, Knockoff Nets, section 4"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.POOL, Capability.QUERIES})

    pool: str = SYNTHETIC
    queries: int = 5000

    def faults(self) -> Iterator[str]:
        yield from least_faults(2, queries=self.queries)

    def pool_name(self) -> str | None:
        return self.pool

    def budget(self, images: int) -> int:
        return self.queries

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        images = context.pool(self.pool, self.queries)
        targets = context.targets(context.session.query(images))
        return context.train(student, images, kd_loss_fn(targets), pure=True)
