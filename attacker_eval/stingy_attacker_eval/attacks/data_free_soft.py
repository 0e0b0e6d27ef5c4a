"""Stealing from noise alone: a generator looks for images on which student and endpoint differ."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stingy_attacker_eval.attacks.base import AttackContext, AttackerData, check_positive
from stingy_attacker_eval.attacks.data_free import (
    DataFree,
    Generator,
    ReplayBuffer,
    as_pixels,
    noise,
)
from stingy_attacker_eval.attacks.losses import centred_l1, class_balance, fill_constant, kd_loss
from stingy_attacker_eval.oracle.oracle import scores_unsupported_reason
from stingy_attacker_eval.training import normalise


@dataclass(frozen=True, kw_only=True)
class DataFreeSoft(DataFree):
    """A zeroth-order generator against the student, scores filled in where they are withheld.

    The endpoint gives no gradient, so that of the gap is estimated from one more question an
    image, `step` grey levels away: the published 0.001 vanishes on the grid of 8-bit images. After
    each step of the generator the student takes `student_steps`. Published runs take 20 million
    questions for CIFAR-10.

    Measured on the digits (4,480 questions, 2 seeds, the data set's chance is 10 %): 22 and 33 %
    from two answered classes, where data_free_hard gets 34 and 36 % from labels alone. On answers
    as short as these the labels are the better buy.

    References:
        "Data-Free Model Extraction" (Truong et al., CVPR 2021), sections 3.2 to 3.4.
    """

    name: ClassVar[str] = "data_free_soft"
    title: ClassVar[str] = "noise alone, with scores: a zeroth-order generator"
    reference: ClassVar[str] = "Truong et al. 2021, Data-Free Model Extraction, sections 3.2 to 3.4"

    student_steps: int = 5
    step: int = 8
    delta: float = 1.0
    generator_lr: float = 1e-3

    def __post_init__(self) -> None:
        check_positive(student_steps=self.student_steps, step=self.step, delta=self.delta)
        super().__post_init__()

    @property
    def round_queries(self) -> int:
        """Questions of one step of the generator and those of the student after it."""
        return self.batch * (2 + self.student_steps)

    def unsupported_reason(self, data: AttackerData) -> str | None:
        return scores_unsupported_reason(data.info.scores) if data.info is not None else None

    def round_runner(
        self, student: nn.Module, generator: Generator, context: AttackContext, replay: ReplayBuffer
    ) -> Callable[[], None]:
        source = context.generator()
        generator_steps = torch.optim.Adam(generator.parameters(), lr=self.generator_lr)
        student_steps = torch.optim.SGD(student.parameters(), lr=context.settings.lr, momentum=0.9)
        student.train()

        def query(pixels: Tensor) -> Tensor:
            answers = fill_constant(context.dense(context.session.query(pixels)), delta=self.delta)
            replay.add(pixels, answers)
            return answers

        def run_round() -> None:
            images = generator(noise(self.batch, source))
            slope = self._slope(student, as_pixels(images), query, source)
            # The estimate tells a direction at best; its size is set against the balance.
            gap = (images * slope / slope.abs().sum().clamp_min(1e-12)).sum()
            even = class_balance(student(images).float())
            generator_steps.zero_grad(set_to_none=True)
            (self.balance * even - gap).backward()
            generator_steps.step()
            for _ in range(self.student_steps):
                with torch.no_grad():
                    pixels = as_pixels(generator(noise(self.batch, source)))
                answers = query(pixels)
                old_pixels, old_answers = replay.sample()
                student_logits = student(normalise(torch.cat([pixels, old_pixels])))
                loss = self.student_loss(student_logits, torch.cat([answers, old_answers]))
                student_steps.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                student_steps.step()

        return run_round

    def student_loss(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        return kd_loss(student_logits, targets, None, tau=1.0, alpha=1.0)

    def _slope(
        self,
        student: nn.Module,
        pixels: Tensor,
        query: Callable[[Tensor], Tensor],
        source: torch.Generator,
    ) -> Tensor:
        """The gap's gradient by the images, from one difference along a random sign a pixel."""
        signs = torch.randint(0, 2, pixels.shape, generator=source, device=pixels.device) * 2 - 1
        moved = (pixels.short() + self.step * signs).clamp(0, 255).byte()
        with torch.no_grad():
            gaps = [
                centred_l1(student(normalise(images)).float(), query(images))
                for images in (pixels, moved)
            ]
        # What was clamped at black or white has moved by less, or not at all.
        rise = (gaps[1] - gaps[0])[:, None, None, None]
        return rise * (moved.short() - pixels.short()).sign() / (self.step / 127.5) / len(pixels)
