"""DAFL, a white-box attack: a generator trained with gradients through the teacher itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from stingy_attacker_eval.attacks.base import (
    Attack,
    AttackContext,
    AttackerData,
    Capability,
    least_faults,
    positive_faults,
)
from stingy_attacker_eval.attacks.context import timed
from stingy_attacker_eval.attacks.data_free.generation import Generator, sample_noise
from stingy_attacker_eval.attacks.losses import dafl_generator_loss, kd_loss
from stingy_attacker_eval.attacks.networks import Tap, last_linear
from stingy_attacker_eval.attacks.recovery.policy_simulation import (
    PolicyOptions,
    simulate_policy,
    simulation_unsupported_reason,
)
from stingy_attacker_eval.training import TrainResult


@dataclass(frozen=True, kw_only=True)
class Dafl(Attack):
    """Data-free distillation through the teacher's gradients and penultimate features.

    The attacker trains a generator from noise, with gradients through the teacher. The generator
    seeks images to which the teacher answers with confidence, evenly over the classes, and with
    large features. The student trains on the same images with soft cross-entropy at tau 1. The
    policy is applied to the teacher's logits before both losses, as in the paper's Table 2. Options
    that the endpoint's description lacks are at the policy's defaults. No policy is applied to the
    features.

    The attacker needs the network itself, in process, which no customer has. It needs no images
    and sends no query.

    steps: training steps of generator and student.
    batch: images of a step.
    one_hot, balance, activation: weights of the generator's three losses; the defaults are the
        published weights for CIFAR-10 and the published code's terms.
    generator_lr: learning rate of the generator. The published code takes 0.02 for CIFAR-10.

    References:
        "Data-Free Learning of Student Networks" (Chen et al., ICCV 2019), section 3, its
        equations 3 to 6.
    """

    name: ClassVar[str] = "dafl"
    title: ClassVar[str] = "white box: a generator trained through the network itself"
    reference: ClassVar[str] = "Chen et al. 2019, DAFL, section 3"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.WHITE_BOX})

    steps: int = 2000
    batch: int = 64
    one_hot: float = 0.05
    balance: float = 5.0
    activation: float = 0.01
    generator_lr: float = 1e-3

    def faults(self) -> Iterator[str]:
        yield from positive_faults(steps=self.steps, generator_lr=self.generator_lr)
        yield from least_faults(2, batch=self.batch)
        yield from least_faults(
            0, one_hot=self.one_hot, balance=self.balance, activation=self.activation
        )

    def unsupported_reason(self, data: AttackerData) -> str | None:
        return simulation_unsupported_reason(data.info) if data.info is not None else None

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        source, info = context.generator(), context.info
        generator = Generator(info.image_size).to(context.device)
        generator_steps = torch.optim.Adam(generator.parameters(), lr=self.generator_lr)
        student_steps = torch.optim.SGD(
            student.parameters(), lr=context.settings.lr, momentum=0.9, weight_decay=5e-4
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(student_steps, self.steps)
        tap = Tap(last_linear(context.network), of_input=True)

        def body() -> float:
            student.train()
            last = 0.0
            for _ in range(self.steps):
                images = generator(sample_noise(self.batch, source))
                released_logits = simulate_policy(
                    context.network(images).float(), info, PolicyOptions()
                )
                hard = dafl_generator_loss(
                    released_logits,
                    tap.value.float(),
                    one_hot=self.one_hot,
                    balance=self.balance,
                    activation=self.activation,
                )
                student_loss = kd_loss(
                    student(images.detach()).float(),
                    released_logits.detach(),
                    None,
                    tau=1.0,
                    alpha=1.0,
                )
                generator_steps.zero_grad(set_to_none=True)
                student_steps.zero_grad(set_to_none=True)
                # One backward pass for both: the student got detached images.
                (hard + student_loss).backward()  # type: ignore[no-untyped-call]
                generator_steps.step()
                student_steps.step()
                schedule.step()
                last = float(student_loss.detach())
            return last

        try:
            return timed(body)
        finally:
            tap.remove()
