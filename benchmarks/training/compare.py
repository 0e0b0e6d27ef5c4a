"""Images a second of our training loop against the usual public one: same network, same images.

The public way: a DataLoader with workers, torchvision's transforms one image at a time, float32,
the loss read after every step, and for distillation the teacher asked about every batch. Ours: one
uint8 tensor on the device, augmented in batches, and answers bought once, before. Rounds of
both alternate in one process; the table shows medians and their ratio.

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
from stingy_attacker_eval.train import TrainSettings, forward, normalise, to_device, train

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
    seen, started = 0, 0.0
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
            seen += len(images)
    return seen / (time.perf_counter() - started)


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


def median_rates(
    rounds: int, public: Callable[[], float], ours: Callable[[], float]
) -> tuple[float, float]:
    """Of alternating rounds, after one of each that is not counted."""
    public(), ours()
    pairs = [(public(), ours()) for _ in range(rounds)]
    return statistics.median(p for p, _ in pairs), statistics.median(o for _, o in pairs)


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
    print("| images/s | public way | ours | ratio |\n|---|---|---|---|")  # noqa: T201
    for what, asked, bought in (
        (f"{options.student}, labels alone", None, None),
        (f"{options.student}, taught by {options.teacher}", teacher, answers),
    ):
        theirs, mine = network(options.student), network(options.student)
        public, ours = median_rates(
            options.rounds,
            lambda: public_way(theirs, asked, loader),  # noqa: B023 - called within the loop
            lambda: our_way(mine, bought, images, labels, options.batch),  # noqa: B023 - as above
        )
        print(f"| {what} | {public:,.0f} | {ours:,.0f} | {ours / public:.2f} |")  # noqa: T201


if __name__ == "__main__":
    main()
