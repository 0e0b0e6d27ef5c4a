"""The common parts of attacks without images: settings, a generator, a replay buffer."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stingy_attacker_eval.attacks.base import Attack, AttackContext, Capability, check_positive
from stingy_attacker_eval.training import TrainResult

NOISE = 64


class Generator(nn.Module):
    """Noise `[batch, NOISE]` to images in -1..1 `[batch, 3, H, W]`, in two doublings."""

    def __init__(self, size: tuple[int, int], *, width: int = 32) -> None:
        super().__init__()
        self._size = size
        self._start = (-(-size[0] // 4), -(-size[1] // 4))
        self._width = width
        self.first = nn.Linear(NOISE, width * self._start[0] * self._start[1])
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


def noise(count: int, generator: torch.Generator) -> Tensor:
    """`[count, NOISE]`, standard normal."""
    return torch.randn(count, NOISE, generator=generator, device=generator.device)


def as_pixels(images: Tensor) -> Tensor:
    """Images in -1..1 on the grid of what can be sent: uint8."""
    return ((images.detach() + 1) * 127.5).round().clamp(0, 255).byte()


class ReplayBuffer:
    """Images bought so far with their targets; a step learns from old and new ones."""

    def __init__(self, context: AttackContext) -> None:
        self._generator = context.generator()
        self._images: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, images: Tensor, targets: Tensor) -> None:
        self._images.append(images)
        self._targets.append(targets)

    def everything(self) -> tuple[Tensor, Tensor]:
        """All of it: images uint8 `[n, 3, H, W]` and targets `[n, ...]`."""
        return torch.cat(self._images), torch.cat(self._targets)

    def sample(self) -> tuple[Tensor, Tensor]:
        """One batch bought at a random time."""
        device = self._generator.device
        at = int(torch.randint(len(self._images), (), generator=self._generator, device=device))
        return self._images[at], self._targets[at]


@dataclass(frozen=True, kw_only=True)
class DataFree(Attack):
    """A generator and a student that ask round by round; at the end the student goes over it all.

    balance keeps the classes the student sees as frequent as each other.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.QUERIES})
    per_run: ClassVar[bool] = True

    queries: int = 20_000
    batch: int = 64
    balance: float = 1.0
    generator_lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(queries=self.queries, batch=self.batch, generator_lr=self.generator_lr)
        if not 0 <= self.balance < float("inf"):
            raise ValueError(f"expected a finite balance of 0 or more, got {self.balance}")
        if self.queries < self.round_queries:
            raise ValueError(f"expected at least {self.round_queries} queries, got {self.queries}")

    @property
    def round_queries(self) -> int:
        """Questions of one round."""
        return self.batch

    def budget(self, images: int) -> int:
        return self.queries

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        replay = ReplayBuffer(context)
        generator = Generator(context.info.image_size).to(context.device)
        run_round = self.round_runner(student, generator, context, replay)
        while context.session.remaining >= self.round_queries:
            run_round()
        pixels, targets = replay.everything()
        return context.train(
            student,
            pixels,
            lambda student_logits, rows, _: self.student_loss(student_logits, targets[rows]),
            epoch_of=len(pixels),
        )

    @abstractmethod
    def round_runner(
        self, student: nn.Module, generator: Generator, context: AttackContext, replay: ReplayBuffer
    ) -> Callable[[], None]:
        """Return a function that queries `round_queries` images and adds them to the buffer."""

    @abstractmethod
    def student_loss(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        """The student's loss `[]` for logits `[batch, classes]` on targets of the buffer."""
