"""One student by itself: what is told of it."""

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from attack_lab import CPU, QUICK
from audit_fakes import striped
from stingy_attacker_eval.attacks import Attack, AttackContext, AttackerData, Capability
from stingy_attacker_eval.audit.train_student import Task, train_student
from stingy_attacker_eval.training import TrainResult, to_device


@dataclass(frozen=True, kw_only=True)
class Prepares(Attack):
    """Takes its time before the training it tells of."""

    name: ClassVar[str] = "prepares"
    title: ClassVar[str] = "a third party's"
    reference: ClassVar[str] = "none"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS})

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        time.sleep(0.2)
        return TrainResult(True, 0.0, 0.0)


def test_the_seconds_are_of_the_whole_attack() -> None:
    pixels, labels = striped(8)
    images = to_device(pixels, CPU)
    task = Task(
        attack=Prepares(),
        attacker_data=AttackerData(images, labels=torch.from_numpy(labels)),
        student="cnn_tiny",
        num_classes=3,
        seed=0,
        settings=QUICK,
        test_images=images,
    )
    assert train_student(task).seconds >= 0.2
