"""DFME: extraction without images, by a generator that seeks gaps between student and endpoint."""

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
    sample_noise,
    to_pixels,
)
from stingy_attacker_eval.attacks.losses import centred_l1, class_balance, fill_constant, kd_loss
from stingy_attacker_eval.oracle.oracle import scores_unsupported_reason
from stingy_attacker_eval.training import normalise


@dataclass(frozen=True, kw_only=True)
class DataFreeSoft(DataFree):
    """Data-free extraction from scores, with a generator trained by zeroth-order gradients.

    The generator seeks images on which the scores of student and endpoint differ most. The
    endpoint gives no gradient, so the attacker estimates it from a second query for each image.
    That query is `step` grey levels away, because the published 0.001 vanishes in 8-bit images.
    After each step of the generator the student takes `student_steps` steps with soft
    cross-entropy at tau 1. Withheld scores are filled in first.

    The attacker needs queries during the run, to an endpoint that gives scores. It needs no
    images and no labels.

    student_steps: steps of the student after each step of the generator.
    step: grey levels between the two queries of an estimate.
    delta: distance of a filled score below the row's lowest score.

    Published runs take 20 million queries for CIFAR-10. Measured on the digits (4,480 queries, 2
    seeds, chance is 10 %): 22 and 33 % from two answered classes. data_free_hard gets 34 and 36 %
    from labels only, so on answers this short labels are the better buy.

    References:
        "Data-Free Model Extraction" (Truong et al., CVPR 2021), sections 3.2 to 3.4.
    """

    name: ClassVar[str] = "data_free_soft"
    title: ClassVar[str] = "no images, with scores: a zeroth-order generator"
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
        """Queries of one step of the generator and of the student's steps after it."""
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
            images = generator(sample_noise(self.batch, source))
            gradient = self._estimate_gradient(student, to_pixels(images), query, source)
            # The estimate is a direction at best, so it is scaled to the size of the balance loss.
            gap = (images * gradient / gradient.abs().sum().clamp_min(1e-12)).sum()
            even = class_balance(student(images).float())
            generator_steps.zero_grad(set_to_none=True)
            (self.balance * even - gap).backward()
            generator_steps.step()
            for _ in range(self.student_steps):
                with torch.no_grad():
                    pixels = to_pixels(generator(sample_noise(self.batch, source)))
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

    def _estimate_gradient(
        self,
        student: nn.Module,
        pixels: Tensor,
        query: Callable[[Tensor], Tensor],
        source: torch.Generator,
    ) -> Tensor:
        """Estimate the gradient of the gap by the images, from one finite difference.

        Each pixel moves by `step` grey levels in a random direction.
        """
        signs = torch.randint(0, 2, pixels.shape, generator=source, device=pixels.device) * 2 - 1
        shifted = (pixels.short() + self.step * signs).clamp(0, 255).byte()
        with torch.no_grad():
            gaps = [
                centred_l1(student(normalise(images)).float(), query(images))
                for images in (pixels, shifted)
            ]
        # A pixel clamped at black or white has moved by less than `step`, or not at all.
        rise = (gaps[1] - gaps[0])[:, None, None, None]
        return rise * (shifted.short() - pixels.short()).sign() / (self.step / 127.5) / len(pixels)
