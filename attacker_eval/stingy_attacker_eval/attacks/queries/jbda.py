"""Jacobian-based data augmentation: a few own images, and steps along the student's gradients."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import (
    Attack,
    AttackContext,
    Capability,
    least_faults,
    positive_faults,
)
from stingy_attacker_eval.attacks.losses import kd_loss_fn
from stingy_attacker_eval.training import TrainResult, normalise

_BATCH = 512
_MOST_ROUNDS = 1000  # each trains the student anew


@dataclass(frozen=True, kw_only=True)
class Jbda(Attack):
    """Distillation on a few own images and on images that the student itself makes of them.

    The attacker queries `seeds` own images. In each round it trains the student from its initial
    weights on all answers, and makes new images: x + step * sign(gradient of the student's
    probability of the answered top-1). It queries these, too. From the round `full_rounds` on, at
    most `reservoir` images, drawn at random, are taken further. The step changes its sign every
    `period` rounds. The loss is soft cross-entropy at tau 1.

    The attacker needs its own images and queries during the run. It needs no true labels.

    seeds: own images to begin with.
    rounds: augmentations.
    step: grey levels of a step; published are 0.1 of the range.
    period: rounds after which the step changes its sign.
    full_rounds: augmentations of all images before the reservoir.
    reservoir: images of each later augmentation.

    Its control is the attack with `rounds = 1` and a step of 1 grey level on as many seeds, or
    `active` with the strategy "random" and as many queries. Measured on the digits (stingy, N = 2,
    width 8, 4 epochs, 3 seeds): 77.8 % from 40 seeds and 640 queries, and 78.3 % by the control.
    The images are made near the boundaries, and accuracy does not show what that is worth.

    References:
        "Practical Black-Box Attacks against Machine Learning" (Papernot et al., AsiaCCS 2017),
        sections 4.3 and 5.2; the reservoir of 400 is that of the published comparisons.
    """

    name: ClassVar[str] = "jbda"
    title: ClassVar[str] = "a few own images, moved along the student's gradients"
    reference: ClassVar[str] = "Papernot et al. 2017, sections 4.3 and 5.2"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.IMAGES, Capability.QUERIES})
    per_run: ClassVar[bool] = True

    seeds: int = 150
    rounds: int = 6
    step: int = 26
    period: int = 3
    full_rounds: int = 2
    reservoir: int = 400

    def faults(self) -> Iterator[str]:
        yield from least_faults(2, seeds=self.seeds)
        yield from positive_faults(
            rounds=self.rounds, step=self.step, period=self.period, reservoir=self.reservoir
        )
        yield from least_faults(0, full_rounds=self.full_rounds)
        if self.rounds > _MOST_ROUNDS:
            yield f"expected at most {_MOST_ROUNDS} rounds, got {self.rounds}"

    def budget(self, images: int) -> int:
        count = min(self.seeds, images)
        for number in range(self.rounds):
            count += count if number < self.full_rounds else min(count, self.reservoir)
        return count

    def new_images(self, images: int) -> int:
        return self.budget(images) - min(self.seeds, images)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        source, first = context.generator(), copy.deepcopy(student.state_dict())
        order = torch.randperm(len(context.images), generator=source, device=context.device)
        images = context.images[order[: self.seeds]]
        targets = context.targets(context.session.query(images))
        result = context.train(student, images, kd_loss_fn(targets), pure=True)
        for number in range(self.rounds):
            if not result.finite:
                return result
            chosen = torch.randperm(len(images), generator=source, device=context.device)
            if number >= self.full_rounds:
                chosen = chosen[: self.reservoir]
            sign = -1 if (number // self.period) % 2 else 1
            labels = targets[chosen].argmax(dim=1)
            more = move_images(student, images[chosen], labels, step=sign * self.step)
            targets = torch.cat([targets, context.targets(context.session.query(more))])
            images = torch.cat([images, more])
            student.load_state_dict(first)
            result = context.train(student, images, kd_loss_fn(targets), pure=True)
        return result


def move_images(student: nn.Module, images: Tensor, labels: Tensor, *, step: int) -> Tensor:
    """Move each image along the sign of the gradient of its label's probability.

    images: uint8 `[n, 3, H, W]`.
    labels: int64 `[n]`.
    step: grey levels; negative to move against the gradient.
    """
    student.eval()
    parts = []
    for part, part_labels in zip(
        torch.split(images, _BATCH), torch.split(labels, _BATCH), strict=True
    ):
        inputs = normalise(part).requires_grad_()
        # The gradient of the logarithm has the same signs, and does not vanish where p is 1.
        log_probs = functional.log_softmax(student(inputs).float(), dim=1)
        chosen = log_probs.gather(1, part_labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, inputs)
        parts.append((part.short() + step * gradient.sign().short()).clamp(0, 255).byte())
    return torch.cat(parts)
