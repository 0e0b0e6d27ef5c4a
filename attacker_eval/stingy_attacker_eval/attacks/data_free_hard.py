"""Stealing from noise alone with labels alone: two students look for what they differ on."""

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
    as_pixels,
    noise,
)
from stingy_attacker_eval.attacks.losses import disguide_generator_loss
from stingy_attacker_eval.attacks.networks import reinitialised
from stingy_attacker_eval.training import normalise


@dataclass(frozen=True, kw_only=True)
class DataFreeHard(DataFree):
    """The generator seeks images two students disagree on, the endpoint's top-1 settles them.

    The generator learns through the students, so it costs no question, and no policy that keeps
    the top-1 can touch the attack. Published runs take 10 to 20 million questions, and a balance
    of 0.2 on ten classes, the default, and 0.04 on a hundred.

    References:
        "DisGUIDE: Disagreement-Guided Data-Free Model Extraction" (Rosenthal et al., AAAI 2023),
        its hard-label setting.
    """

    name: ClassVar[str] = "data_free_hard"
    title: ClassVar[str] = "noise alone, with labels: two students that disagree"
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
        students = nn.ModuleList([student, reinitialised(student)])
        students.train()
        student_steps = torch.optim.SGD(students.parameters(), lr=context.settings.lr, momentum=0.9)

        def run_round() -> None:
            for _ in range(self.generator_steps):
                images = generator(noise(self.batch, source))
                first, second = (each(images).float() for each in students)
                doubt = disguide_generator_loss(first, second, balance=self.balance)
                generator_steps.zero_grad(set_to_none=True)
                doubt.backward()  # type: ignore[no-untyped-call]
                generator_steps.step()
            with torch.no_grad():
                pixels = as_pixels(generator(noise(self.batch, source)))
            labels = torch.from_numpy(context.session.query(pixels).top1).to(context.device)
            replay.add(pixels, labels)
            for images, wanted in ((pixels, labels), replay.sample()):
                inputs = normalise(images)
                losses = [self.student_loss(each(inputs).float(), wanted) for each in students]
                student_steps.zero_grad(set_to_none=True)
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
                student_steps.step()

        return run_round

    def student_loss(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(student_logits, targets)
