"""Images a second of our training loop against the usual public one: same network, same images.

The public way: a DataLoader with workers, torchvision's transforms one image at a time, float32,
the loss read after every step, and for distillation the teacher asked about every batch. Ours: one
uint8 tensor on the device, augmented in batches, and answers bought once, before. "The step
alone" is forward, backward and optimiser on one batch that lies ready, laid out as ours: what no
loop can pass without other arithmetic. Rounds of all three alternate in one process; the table
shows medians, ours over the public way, and ours as a share of the step alone. Ours is timed from
its very first step, the public way from its third.

    python benchmarks/training/compare.py [--student resnet8] [--teacher resnet20] [--images 2560]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms  # type: ignore[import-untyped]

from stingy_attacker_eval.attacks.losses import kd_loss
from stingy_attacker_eval.environment import default_device, describe_environment
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import (
    TrainSettings,
    forward,
    memory_format,
    normalise,
    to_device,
    train,
)

CLASSES, SIZE, TAU, ALPHA = 100, 32, 20.0, 0.9
Pixels = NDArray[np.uint8]


class OneByOne(TorchDataset[tuple[Tensor, int]]):
    """Each image through the transforms of the public loops on its own."""

    def __init__(self, images: Pixels, labels: NDArray[np.int64]) -> None:
        self._images, self._labels = images, labels
        self._transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(SIZE, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self._transform(self._images[row]), int(self._labels[row])


def public_way(student: nn.Module, teacher: nn.Module | None, loader: DataLoader[Any]) -> float:
    """Images a second over one epoch, from the end of its second step: workers are up by then."""
    device = next(student.parameters()).device
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    student.train()
    count, started = 0, 0.0
    for step, (images, labels) in enumerate(loader):
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        logits = student(images)
        if teacher is None:
            loss = functional.cross_entropy(logits, labels)
        else:
            with torch.no_grad():
                answers = teacher(images)
            loss = kd_loss(logits, answers, labels, tau=TAU, alpha=ALPHA)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()  # for the progress bar of those loops
        if step == 1:
            started = time.perf_counter()
        elif step > 1:
            count += len(images)
    return count / (time.perf_counter() - started)


def our_way(
    student: nn.Module, answers: Tensor | None, images: Tensor, labels: Tensor, batch: int
) -> float:
    """Images a second of one epoch of `train`."""

    def loss(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        if answers is None:
            return functional.cross_entropy(logits, labels[rows])
        return kd_loss(logits, answers[rows], labels[rows], tau=TAU, alpha=ALPHA)

    settings = TrainSettings(epochs=1, batch=batch, lr=0.01, augment=4, flip=True)
    result = train(student, images, loss, settings=settings, seed=0)
    return len(images) // batch * batch / result.seconds


def bare_step(student: nn.Module, images: Tensor, labels: Tensor, batch: int) -> float:
    """Images a second of as many steps as an epoch has, all on the first batch."""
    optimizer = torch.optim.SGD(
        student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True
    )
    student.to(memory_format=memory_format(images)).train()
    inputs, wanted = normalise(images[:batch]), labels[:batch]
    steps = len(images) // batch
    started = time.perf_counter()
    for _ in range(steps):
        loss = functional.cross_entropy(forward(student, inputs), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    loss.item()  # a GPU is waited for
    return steps * batch / (time.perf_counter() - started)


def median_rates(rounds: int, *ways: Callable[[], float]) -> list[float]:
    """Of alternating rounds, after one of each that is not counted."""
    found = [[way() for way in ways] for _ in range(rounds + 1)][1:]
    return [statistics.median(rates) for rates in zip(*found, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed, public way and ours.")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    device = default_device()
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (options.images, SIZE, SIZE, 3), np.uint8)
    classes = random.integers(0, CLASSES, options.images)
    images, labels = to_device(pixels, device), torch.from_numpy(classes).to(device)
    loader = DataLoader(
        OneByOne(pixels, classes),
        batch_size=options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        pin_memory=device.type == "cuda",
    )

    def network(name: str) -> nn.Module:
        return student_spec(name).build(CLASSES).to(device)

    teacher = network(options.teacher).eval()
    with torch.no_grad():
        parts = torch.split(images, options.batch)
        answers = torch.cat([forward(teacher, normalise(part)) for part in parts])
    facts = describe_environment(device)
    print(f"{facts['device']}, {facts['cpu']}, torch {facts['torch']}; {options}")  # noqa: T201
    print("| images/s | public way | ours | ratio | the step alone | ours of it |")  # noqa: T201
    print("|---|---|---|---|---|---|")  # noqa: T201
    for label, taught_by, targets in (
        (f"{options.student}, labels alone", None, None),
        (f"{options.student}, taught by {options.teacher}", teacher, answers),
    ):
        theirs, mine = network(options.student), network(options.student)
        public, ours, bare = median_rates(
            options.rounds,
            lambda: public_way(theirs, taught_by, loader),  # noqa: B023 - called within the loop
            lambda: our_way(mine, targets, images, labels, options.batch),  # noqa: B023 - as above
            lambda: bare_step(mine, images, labels, options.batch),  # noqa: B023 - as above
        )
        rates = f"{public:,.0f} | {ours:,.0f} | {ours / public:.2f} | {bare:,.0f}"
        print(f"| {label} | {rates} | {100 * ours / bare:.0f} % |")  # noqa: T201


if __name__ == "__main__":
    main()
