"""DFME: extraction without images, by a generator that seeks gaps between student and endpoint."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stingy_attacker_eval.attacks.base import AttackContext, AttackerData, positive_faults
from stingy_attacker_eval.attacks.data_free.generation import (
    DataFree,
    Generator,
    ReplayBuffer,
    sample_noise,
    to_pixels,
)
from stingy_attacker_eval.attacks.losses import centred_l1, class_balance, fill_constant
from stingy_attacker_eval.oracle.oracle import scores_unsupported_reason
from stingy_attacker_eval.training import normalise


@dataclass(frozen=True, kw_only=True)
class DataFreeSoft(DataFree):
    """Data-free extraction from scores, with a generator trained by zeroth-order gradients.

    The generator seeks images on which the scores of student and endpoint differ most. The
    endpoint gives no gradient, so the attacker estimates it from a second query for each image.
    That query is `step` grey levels away, because the published 0.001 vanishes in 8-bit images.
    After each step of the generator the student takes `student_steps` steps. The loss of both is
    the L1 distance between the student's logits and the answered scores, less their mean. Withheld
    scores are filled in first.

    The attacker needs queries during the run, to an endpoint that gives scores. It needs no
    images and no labels.

    student_steps: steps of the student after each step of the generator.
    step: grey levels between the two queries of an estimate.
    delta: distance of a filled score below the row's lowest score.

    Loss, modes, batch, rates, their steps and weight decay are those of the published code, which
    has no class balance. It takes 20 million queries for CIFAR-10, a generator of four times the
    width on 256 numbers of noise, and does not train on all queried images at the end. Its
    difference goes along a random direction of the input of tanh; here each pixel goes up or down.

    References:
        "Data-Free Model Extraction" (Truong et al., CVPR 2021), sections 3.2 to 3.4.
    """

    name: ClassVar[str] = "data_free_soft"
    title: ClassVar[str] = "no images, with scores: a zeroth-order generator"
    reference: ClassVar[str] = "Truong et al. 2021, Data-Free Model Extraction, sections 3.2 to 3.4"
    rate_steps: ClassVar[tuple[float, ...]] = (0.1, 0.3, 0.5)

    student_steps: int = 5
    step: int = 8
    delta: float = 1.0

    def faults(self) -> Iterator[str]:
        yield from positive_faults(
            student_steps=self.student_steps, step=self.step, delta=self.delta
        )
        yield from super().faults()

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
        adam, sgd, end_round = self.build_optimizers(generator, student)
        student.train()

        def query(pixels: Tensor) -> Tensor:
            answers = fill_constant(context.dense(context.session.query(pixels)), delta=self.delta)
            replay.add(pixels, answers)
            return answers

        def run_round() -> None:
            images = generator(sample_noise(self.batch, source))
            gradient = self._estimate_gradient(student, to_pixels(images), query, source)
            # Adam's step does not depend on the gradient's size, but beside the balance loss it
            # matters, so the estimate is scaled to that loss.
            loss = -(images * gradient / gradient.abs().sum().clamp_min(1e-12)).sum()
            if self.balance:
                loss = loss + self.balance * class_balance(student(images).float())
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            for _ in range(self.student_steps):
                with torch.no_grad():
                    pixels = to_pixels(generator(sample_noise(self.batch, source)))
                student_loss = self.student_loss(student(normalise(pixels)).float(), query(pixels))
                sgd.zero_grad(set_to_none=True)
                student_loss.backward()  # type: ignore[no-untyped-call]
                sgd.step()
            end_round()

        return run_round

    def student_loss(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        return centred_l1(student_logits, targets).mean()

    def _estimate_gradient(
        self,
        student: nn.Module,
        pixels: Tensor,
        query: Callable[[Tensor], Tensor],
        source: torch.Generator,
    ) -> Tensor:
        """Estimate the gradient of the gap by the images, from one finite difference.

        Each pixel moves by `step` grey levels in a random direction. The student is in eval mode
        meanwhile, so that its batch statistics add nothing to a difference, and keep their values.
        """
        signs = torch.randint(0, 2, pixels.shape, generator=source, device=pixels.device) * 2 - 1
        shifted = (pixels.short() + self.step * signs).clamp(0, 255).byte()
        student.eval()
        with torch.no_grad():
            gaps = [
                centred_l1(student(normalise(images)).float(), query(images))
                for images in (pixels, shifted)
            ]
        student.train()
        # A pixel clamped at black or white has moved by less than `step`, or not at all.
        rise = (gaps[1] - gaps[0])[:, None, None, None]
        return rise * (shifted.short() - pixels.short()).sign() / (self.step / 127.5) / len(pixels)
