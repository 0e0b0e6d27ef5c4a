"""Training speed in images/s: our loop beside the usual public loop, on the same images.

The public loop has a DataLoader with workers and torchvision's transforms on one image at a time.
It trains the same network in float32 and reads the loss after every step. For distillation it
queries the teacher with every batch. Our loop has one uint8 tensor on the device, augments whole
batches, and trains on answers computed before. "Step only" is forward, backward and optimiser on
one prepared batch, in our memory format. It is the upper limit of any loop with the same
arithmetic.

Rounds of all three alternate in one process. The table has medians, the ratio of ours to the
public loop, and ours as a share of the step only. Our time starts with the first step, that of the
public loop with its third.

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
    """A data set that applies the public loops' transforms to one image at a time."""

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


def run_public_loop(
    student: nn.Module, teacher: nn.Module | None, loader: DataLoader[Any]
) -> float:
    """Return images/s of one epoch, from the end of its second step, when all workers run."""
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
        loss.item()  # those loops read it for their progress bar
        if step == 1:
            started = time.perf_counter()
        elif step > 1:
            count += len(images)
    return count / (time.perf_counter() - started)


def run_our_loop(
    student: nn.Module, answers: Tensor | None, images: Tensor, labels: Tensor, batch: int
) -> float:
    """Return images/s of one epoch of `train`."""

    def loss(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        if answers is None:
            return functional.cross_entropy(logits, labels[rows])
        return kd_loss(logits, answers[rows], labels[rows], tau=TAU, alpha=ALPHA)

    settings = TrainSettings(epochs=1, batch=batch, lr=0.01, augment=4, flip=True)
    result = train(student, images, loss, settings=settings, seed=0, pure=True)
    return len(images) // batch * batch / result.seconds


def run_step_only(student: nn.Module, images: Tensor, labels: Tensor, batch: int) -> float:
    """Return images/s of an epoch's number of steps, all on the first batch."""
    optimizer = torch.optim.SGD(
        student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True
    )
    student.to(memory_format=memory_format(images)).train()
    inputs, targets = normalise(images[:batch]), labels[:batch]
    steps = len(images) // batch
    started = time.perf_counter()
    for _ in range(steps):
        loss = functional.cross_entropy(forward(student, inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    loss.item()  # wait for the GPU
    return steps * batch / (time.perf_counter() - started)


def median_rates(rounds: int, *loops: Callable[[], float]) -> list[float]:
    """Return the median of each loop over alternating rounds, without the first round."""
    found = [[loop() for loop in loops] for _ in range(rounds + 1)][1:]
    return [statistics.median(rates) for rates in zip(*found, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed of the public loop and ours.")
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
    print("| images/s | public loop | ours | ratio | step only | ours of it |")  # noqa: T201
    print("|---|---|---|---|---|---|")  # noqa: T201
    for label, loop_teacher, targets in (
        (f"{options.student}, labels only", None, None),
        (f"{options.student}, taught by {options.teacher}", teacher, answers),
    ):
        public_student, our_student = network(options.student), network(options.student)
        public, ours, bare = median_rates(
            options.rounds,
            lambda: run_public_loop(public_student, loop_teacher, loader),  # noqa: B023 - called within the loop
            lambda: run_our_loop(our_student, targets, images, labels, options.batch),  # noqa: B023 - as above
            lambda: run_step_only(our_student, images, labels, options.batch),  # noqa: B023 - as above
        )
        rates = f"{public:,.0f} | {ours:,.0f} | {ours / public:.2f} | {bare:,.0f}"
        print(f"| {label} | {rates} | {100 * ours / bare:.0f} % |")  # noqa: T201


if __name__ == "__main__":
    main()
