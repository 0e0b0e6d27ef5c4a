"""The no-API baseline of an attacker without true labels: one class for every image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from stingy_attacker_eval.attacks.base import Attack, AttackContext, Capability
from stingy_attacker_eval.training import TrainResult


@dataclass(frozen=True, kw_only=True)
class Guess(Attack):
    """A student that names the first class for every image: nothing was bought and no label owned.

    On a balanced test set its accuracy is that of chance. It is the baseline of an attacker that
    owns images without true labels, in place of `no_api`.

    References:
        none; it is the constant classifier.
    """

    name: ClassVar[str] = "guess"
    title: ClassVar[str] = "one class for every image, without the API and without a label"
    reference: ClassVar[str] = "the constant classifier"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.IMAGES})

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        with torch.no_grad():
            for weights in student.parameters():
                weights.zero_()
        return TrainResult(True, 0.0, 0.0)
