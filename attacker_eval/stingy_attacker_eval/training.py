"""One training loop for every student and teacher: same seed and settings, same numbers."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

LossFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits `[batch, classes]`, row numbers `[batch]`, the normalised images fed) to a scalar."""

_EVALUATION_BATCH = 1024
# Pixels a side from which a CPU, too, gets channels_last: 1.3 to 1.8 times as fast at 32x32.
# Smaller images keep the other order of sums, and with it the numbers published for them.
_LARGE = 16


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What one training run is made of.

    augment: the largest shift in pixels, 0 for none. flip: mirror every other image. milestones:
    epochs after which the rate is multiplied by gamma, with plain momentum, as the published
    loops do; without any, Nesterov momentum under a one-cycle schedule.
    """

    epochs: int
    batch: int = 64
    lr: float = 0.1
    weight_decay: float = 5e-4
    augment: int = 0
    flip: bool = False
    milestones: tuple[int, ...] = ()
    gamma: float = 0.2


@dataclass(frozen=True)
class TrainResult:
    """`finite` is False when the loss was not finite: a broken attack, not a protected model."""

    finite: bool
    seconds: float
    last_loss: float


def to_device(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Images uint8 `[n, H, W, 3]` to one uint8 tensor `[n, 3, H, W]` on the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(device)
    return tensor.contiguous(memory_format=memory_format(tensor))


def train(
    model: nn.Module,
    images: Tensor,
    loss_fn: LossFn,
    *,
    settings: TrainSettings,
    seed: int,
    epoch_of: int | None = None,
    epoch_done: Callable[[], None] = lambda: None,
) -> TrainResult:
    """
    Train the model in place with SGD.

    images: uint8 `[n, 3, H, W]` on the device the model is on. Order, shifts and flips come from
    a generator of their own, so that numbers do not depend on what ran before. epoch_of: how many
    images make an epoch, None for these; other numbers of images are learnt in as many steps.
    Stops after the first epoch whose loss is not finite (one synchronisation an epoch, none a
    step).
    """
    device = images.device
    generator = torch.Generator(device).manual_seed(seed)
    batch = min(settings.batch, len(images))
    of = epoch_of or len(images)
    steps = max(1, of // min(settings.batch, of))  # without the ragged last batch
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=0.9,
        nesterov=not settings.milestones,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = _schedule(optimizer, settings, steps)
    model.to(memory_format=memory_format(images))
    model.train()
    started = time.perf_counter()
    loss_value, summed = float("nan"), torch.zeros((), device=device)
    batches = islice(_batches(len(images), batch, generator), settings.epochs * steps)
    for step, rows in enumerate(batches, 1):
        inputs = normalise(augmented(images[rows], settings, generator))
        loss = loss_fn(forward(model, inputs), rows, inputs)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        summed += loss.detach()
        if step % steps:
            continue
        loss_value = float(summed) / steps
        summed.zero_()
        epoch_done()
        if not np.isfinite(loss_value):
            break
    finite = bool(np.isfinite(loss_value))
    return TrainResult(finite, time.perf_counter() - started, loss_value)


def _batches(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers `[batch]` without end, each row once a turn, but for the ragged last batch."""
    while True:
        order = torch.randperm(count, generator=generator, device=generator.device)
        yield from torch.split(order[: count - count % batch], batch)


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """The model's top-1 for uint8 images `[n, 3, H, W]`: int64 `[n]` on the CPU."""
    model.eval()
    parts = torch.split(images, _EVALUATION_BATCH)
    return torch.cat([forward(model, normalise(part)).argmax(1) for part in parts]).cpu()


def forward(model: nn.Module, inputs: Tensor) -> Tensor:
    """Normalised images to float32 logits; in bfloat16 on the way where that is the fast type."""
    kind = inputs.device.type
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda"):
        logits: Tensor = model(inputs)
    return logits.float()


def percent_equal(left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """How many of 100 entries agree; every example weighs the same."""
    return 100.0 * float(np.mean(left == right))


def normalise(images: Tensor) -> Tensor:
    """uint8 to float32 in -1..1: a bundle says the same as mean 0.5 and standard deviation 0.5."""
    return images.float().div_(127.5).sub_(1.0)


def _schedule(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Stepped after every batch, `steps` of them an epoch."""
    if settings.milestones:
        ends = [epoch * steps for epoch in settings.milestones]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, ends, gamma=settings.gamma)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.lr, total_steps=settings.epochs * steps
    )


def augmented(images: Tensor, settings: TrainSettings, generator: torch.Generator) -> Tensor:
    """Each image moved by its own shift, the border filled with black, then perhaps mirrored."""
    pixels = settings.augment
    if pixels == 0 and not settings.flip:
        return images
    count, _, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(count, -1)
    columns = torch.arange(width, device=device).expand(count, -1)
    if pixels:
        images = functional.pad(images, (pixels,) * 4)
        corner = torch.randint(0, 2 * pixels + 1, (2, count), generator=generator, device=device)
        rows, columns = rows + corner[0, :, None], columns + corner[1, :, None]
    if settings.flip:
        mirrored = torch.randint(0, 2, (count, 1), generator=generator, device=device).bool()
        columns = torch.where(mirrored, columns.flip(1), columns)
    # One gather of whole pixels from a flat list is faster than indexing in three ways.
    first = torch.arange(count, device=device)[:, None] * images.shape[2]
    places = (first + rows)[:, :, None] * images.shape[3] + columns[:, None, :]
    pixels_flat = images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])
    moved = pixels_flat.index_select(0, places.view(-1)).view(count, height, width, -1)
    return moved.permute(0, 3, 1, 2)


def memory_format(images: Tensor) -> torch.memory_format:
    """What networks for these images `[n, 3, H, W]` are laid out in, and the images themselves."""
    fast = images.device.type == "cuda" or min(images.shape[2:]) >= _LARGE
    return torch.channels_last if fast else torch.contiguous_format
