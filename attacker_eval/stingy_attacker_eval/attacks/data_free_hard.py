"""DisGUIDE: extraction without images and without scores, by the disagreement of two students."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import AttackContext, check_positive
from stingy_attacker_eval.attacks.data_free import (
    DataFree,
    Generator,
    ReplayBuffer,
    sample_noise,
    to_pixels,
)
from stingy_attacker_eval.attacks.losses import disguide_generator_loss
from stingy_attacker_eval.attacks.networks import copy_with_new_weights
from stingy_attacker_eval.training import normalise


@dataclass(frozen=True, kw_only=True)
class DataFreeHard(DataFree):
    """Data-free extraction from labels only, with a generator that two students train.

    The generator seeks images on which two students disagree. The attacker queries these images
    and trains both students with cross-entropy on the endpoint's top-1. The generator's gradients
    come from the students, so its steps cost no queries. A policy that keeps the top-1 does not
    change the attack.

    The attacker needs queries during the run. It needs no images, labels or scores.

    balance: weight of the class balance. Published runs take 0.2 on ten classes, the default,
        and 0.04 on a hundred.
    generator_steps: steps of the generator in each round.

    Published runs take 10 to 20 million queries.

    References:
        "DisGUIDE: Disagreement-Guided Data-Free Model Extraction" (Rosenthal et al., AAAI 2023),
        its hard-label setting; the losses are `losses.disguide_generator_loss`.
    """

    name: ClassVar[str] = "data_free_hard"
    title: ClassVar[str] = "no images, with labels: two students that disagree"
    reference: ClassVar[str] = "Rosenthal et al. 2023, DisGUIDE, hard-label setting"

    balance: float = 0.2
    generator_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(generator_steps=self.generator_steps)

    def round_runner(
        self, student: nn.Module, generator: Generator, context: AttackContext, replay: ReplayBuffer
    ) -> Callable[[], None]:
        source = context.generator()
        generator_steps = torch.optim.Adam(generator.parameters(), lr=self.generator_lr)
        students = nn.ModuleList([student, copy_with_new_weights(student)])
        students.train()
        student_steps = torch.optim.SGD(students.parameters(), lr=context.settings.lr, momentum=0.9)

        def run_round() -> None:
            for _ in range(self.generator_steps):
                images = generator(sample_noise(self.batch, source))
                first, second = (each(images).float() for each in students)
                loss = disguide_generator_loss(first, second, balance=self.balance)
                generator_steps.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                generator_steps.step()
            with torch.no_grad():
                pixels = to_pixels(generator(sample_noise(self.batch, source)))
            labels = torch.from_numpy(context.session.query(pixels).top1).to(context.device)
            replay.add(pixels, labels)
            for images, targets in ((pixels, labels), replay.sample()):
                inputs = normalise(images)
                losses = [self.student_loss(each(inputs).float(), targets) for each in students]
                student_steps.zero_grad(set_to_none=True)
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
                student_steps.step()

        return run_round

    def student_loss(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(student_logits, targets)
