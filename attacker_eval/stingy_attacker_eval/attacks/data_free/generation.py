"""The common parts of data-free attacks: settings, a generator, a replay buffer."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stingy_attacker_eval.attacks.base import (
    Attack,
    AttackContext,
    Capability,
    least_faults,
    positive_faults,
)
from stingy_attacker_eval.training import TrainResult

NOISE_SIZE = 64


class Generator(nn.Module):
    """A network from noise `[batch, NOISE_SIZE]` to images in -1..1 `[batch, 3, H, W]`.

    Two upsampling stages double the size of the maps.
    """

    def __init__(self, size: tuple[int, int], *, width: int = 32) -> None:
        super().__init__()
        self._size = size
        self._start = (-(-size[0] // 4), -(-size[1] // 4))
        self._width = width
        self.first = nn.Linear(NOISE_SIZE, width * self._start[0] * self._start[1])
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2),
            *_block(width, width),
            nn.Upsample(scale_factor=2),
            *_block(width, width),
            nn.Conv2d(width, 3, 3, padding=1),
            nn.BatchNorm2d(3, affine=False),
            nn.Tanh(),
        )

    def forward(self, noise: Tensor) -> Tensor:
        images: Tensor = self.body(self.first(noise).view(-1, self._width, *self._start))
        return images[:, :, : self._size[0], : self._size[1]]


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)


def sample_noise(count: int, generator: torch.Generator) -> Tensor:
    """Sample standard normal noise `[count, NOISE_SIZE]`."""
    return torch.randn(count, NOISE_SIZE, generator=generator, device=generator.device)


def to_pixels(images: Tensor) -> Tensor:
    """Round images in -1..1 to uint8, the only values that a query can carry."""
    return ((images.detach() + 1) * 127.5).round().clamp(0, 255).byte()


class ReplayBuffer:
    """The images queried so far and their targets, for steps on old and new images."""

    def __init__(self, context: AttackContext) -> None:
        self._generator = context.generator()
        self._images: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, images: Tensor, targets: Tensor) -> None:
        """Add one batch; all batches have the same size."""
        self._images.append(images)
        self._targets.append(targets)

    def contents(self) -> tuple[Tensor, Tensor]:
        """Return all images, uint8 `[n, 3, H, W]`, and their targets `[n, ...]`."""
        return torch.cat(self._images), torch.cat(self._targets)

    def sample(self) -> tuple[Tensor, Tensor]:
        """Return as many images as a batch has, drawn at random from all of them, with targets."""
        batches, size = len(self._images), len(self._images[0])
        device = self._generator.device
        drawn = torch.randint(batches * size, (size,), generator=self._generator, device=device)
        places = [divmod(place, size) for place in drawn.tolist()]
        return (
            torch.stack([self._images[batch][row] for batch, row in places]),
            torch.stack([self._targets[batch][row] for batch, row in places]),
        )


@dataclass(frozen=True, kw_only=True)
class DataFree(Attack):
    """The base class of attacks that train a generator and need no images.

    In each round the attacker queries generated images, and trains generator and student. When
    the budget is used up, the student trains on all queried images.

    queries: images to query in all.
    batch: images of a training step.
    balance: weight of the generator's class-balance loss, which keeps classes equally frequent.
    generator_lr, student_lr: first learning rates in the rounds. Both fall to 0.3 of themselves
        after each share of the rounds in `rate_steps`. The training on all images has the
        protocol's schedule.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.QUERIES})
    per_run: ClassVar[bool] = True
    rate_steps: ClassVar[tuple[float, ...]]

    queries: int = 20_000
    batch: int = 256
    balance: float = 0.0
    generator_lr: float = 1e-4
    student_lr: float = 0.1

    def faults(self) -> Iterator[str]:
        yield from positive_faults(
            queries=self.queries, generator_lr=self.generator_lr, student_lr=self.student_lr
        )
        yield from least_faults(2, batch=self.batch)
        yield from least_faults(0, balance=self.balance)
        if self.queries < self.round_queries:
            yield f"expected at least {self.round_queries} queries, got {self.queries}"

    @property
    def round_queries(self) -> int:
        """Queries of one round."""
        return self.batch

    def budget(self, images: int) -> int:
        return self.queries

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        replay = ReplayBuffer(context)
        generator = Generator(context.info.image_size).to(context.device)
        run_round = self.round_runner(student, generator, context, replay)
        while context.session.remaining >= self.round_queries:
            run_round()
        pixels, targets = replay.contents()
        return context.train(
            student,
            pixels,
            lambda student_logits, rows, _: self.student_loss(student_logits, targets[rows]),
            pure=True,
            epoch_size=len(pixels),
        )

    def build_optimizers(
        self, generator: nn.Module, students: nn.Module
    ) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer, Callable[[], None]]:
        """Return Adam for the generator, SGD for the students, and a function to end a round.

        The function moves both learning rates along `rate_steps`. SGD has the published momentum
        0.9 and weight decay 5e-4.
        """
        adam = torch.optim.Adam(generator.parameters(), lr=self.generator_lr)
        sgd = torch.optim.SGD(
            students.parameters(), lr=self.student_lr, momentum=0.9, weight_decay=5e-4
        )
        rounds = self.queries // self.round_queries
        ends = [max(1, int(share * rounds)) for share in self.rate_steps]
        schedules = [
            torch.optim.lr_scheduler.MultiStepLR(optimizer, ends, gamma=0.3)
            for optimizer in (adam, sgd)
        ]

        def end_round() -> None:
            for schedule in schedules:
                schedule.step()

        return adam, sgd, end_round

    @abstractmethod
    def round_runner(
        self, student: nn.Module, generator: Generator, context: AttackContext, replay: ReplayBuffer
    ) -> Callable[[], None]:
        """Return a function that runs one round.

        The function queries `round_queries` images and adds them to the replay buffer.
        """

    @abstractmethod
    def student_loss(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        """Return the student's scalar loss on targets of the replay buffer.

        student_logits: `[batch, classes]`.
        targets: `[batch, ...]`.
        """
