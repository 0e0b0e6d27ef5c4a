"""DisGUIDE: extraction without images and without scores, by the disagreement of two students."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import AttackContext, positive_faults
from stingy_attacker_eval.attacks.data_free.generation import (
    DataFree,
    Generator,
    ReplayBuffer,
    sample_noise,
    to_pixels,
)
from stingy_attacker_eval.attacks.losses import disguide_generator_loss
from stingy_attacker_eval.training import normalise


@dataclass(frozen=True, kw_only=True)
class DataFreeHard(DataFree):
    """Data-free extraction from labels only, with a generator that two students train.

    The generator seeks images on which two students disagree. The attacker queries these images
    and trains both students with cross-entropy on the endpoint's top-1: one step on the new images,
    and `replay_steps` on images drawn from all so far. The generator's gradients come from the
    students in eval mode, so its steps cost no queries. A policy that keeps the top-1 does not
    change the attack.

    The attacker needs queries during the run. It needs no images, labels or scores.

    balance: weight of the class balance. Published runs take 0.2 on ten classes, the default,
        and 0.04 on a hundred.
    generator_steps: steps of the generator in each round.
    replay_steps: steps of the students on earlier images in each round.

    Losses, modes, batch, rates, their steps and weight decay are those of the published code. It
    takes 10 to 20 million queries, a generator of four times the width on 256 numbers of noise,
    makes every eighth image grey, and does not train on all queried images at the end. Published
    accuracies are those of the mean of both students; here the attacker keeps one.

    References:
        "DisGUIDE: Disagreement-Guided Data-Free Model Extraction" (Rosenthal et al., AAAI 2023),
        its hard-label setting; the losses are `losses.disguide_generator_loss`.
    """

    name: ClassVar[str] = "data_free_hard"
    title: ClassVar[str] = "no images, with labels: two students that disagree"
    reference: ClassVar[str] = "Rosenthal et al. 2023, DisGUIDE, hard-label setting"
    rate_steps: ClassVar[tuple[float, ...]] = (0.4, 0.8)

    balance: float = 0.2
    student_lr: float = 0.03
    generator_steps: int = 1
    replay_steps: int = 3

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from positive_faults(
            generator_steps=self.generator_steps, replay_steps=self.replay_steps
        )

    @property
    def reads_top1_only(self) -> bool:
        return True

    def round_runner(
        self, student: nn.Module, generator: Generator, context: AttackContext, replay: ReplayBuffer
    ) -> Callable[[], None]:
        source = context.generator()
        students = nn.ModuleList([student, context.another_network(student)])
        adam, sgd, end_round = self.build_optimizers(generator, students)

        def train_generator() -> None:
            generator.train()
            students.eval()
            for _ in range(self.generator_steps):
                images = generator(sample_noise(self.batch, source))
                first, second = (each(images).float() for each in students)
                loss = disguide_generator_loss(first, second, balance=self.balance)
                adam.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()

        def train_students(images: Tensor, targets: Tensor) -> None:
            inputs = normalise(images)
            losses = [self.student_loss(each(inputs).float(), targets) for each in students]
            sgd.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            sgd.step()

        def run_round() -> None:
            train_generator()
            generator.eval()
            students.train()
            with torch.no_grad():
                pixels = to_pixels(generator(sample_noise(self.batch, source)))
            labels = torch.from_numpy(context.session.query(pixels).top1).to(context.device)
            replay.add(pixels, labels)
            train_students(pixels, labels)
            for _ in range(self.replay_steps):
                train_students(*replay.sample())
            end_round()

        return run_round

    def student_loss(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(student_logits, targets)
