"""The training loop of students and teachers. The same seed and settings give the same numbers."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.environment import trains_in_bfloat16
from stingy_attacker_eval.recorded_pass import Pass, RecordedPass

LossFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A loss: (logits `[batch, classes]`, row numbers `[batch]`, the normalised inputs) to a scalar."""

_EVALUATION_BATCH = 1024
# From this side length in pixels a CPU uses channels_last, too: 1.3 to 1.8 times as fast at 32x32.
# It also trains in bfloat16 where it has instructions for it. Smaller images gain nothing.
_LARGE = 16


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings of one training run.

    augment: largest shift in pixels, 0 for none.
    flip: mirror half of the images, at random.
    milestones: epochs after which gamma multiplies the learning rate, with plain momentum, as in
        the published loops. Without milestones: Nesterov momentum and a one-cycle schedule.
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
    """The outcome of a training run.

    finite: False if the loss was not finite: a broken attack, not a protected model.
    seconds: time of the training.
    last_loss: mean loss of the last epoch.
    measures: other numbers that an attack reports, by name.
    """

    finite: bool
    seconds: float
    last_loss: float
    measures: Mapping[str, float] = field(default_factory=dict)


def to_device(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Copy images uint8 `[n, H, W, 3]` to the device, as one uint8 tensor `[n, 3, H, W]`."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(device)
    return tensor.contiguous(memory_format=memory_format(tensor))


def train(
    model: nn.Module,
    images: Tensor,
    loss_fn: LossFn,
    *,
    settings: TrainSettings,
    seed: int,
    pure: bool = False,
    epoch_size: int | None = None,
    on_epoch_end: Callable[[], None] = lambda: None,
) -> TrainResult:
    """Train the model in place with SGD.

    Order, shifts and flips come from a separate random generator, so the numbers do not depend on
    earlier code. Training stops after the first epoch with a loss that is not finite. The device
    is synchronised once an epoch and not at each step.

    images: uint8 `[n, 3, H, W]`, on the model's device.
    seed: seed of order, shifts and flips.
    pure: the loss is a function of its arguments alone: it counts nothing, draws no random numbers
        and branches on no value. On CUDA its kernels are then recorded once and replayed.
    epoch_size: images in an epoch, None for len(images). With the same size, any number of
        images takes equally many steps.
    on_epoch_end: called after each epoch.
    """
    device = images.device
    generator = torch.Generator(device).manual_seed(seed)
    batch = min(settings.batch, len(images))
    epoch_size = epoch_size or len(images)
    # An incomplete last batch is left out.
    steps = max(1, epoch_size // min(settings.batch, epoch_size))
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=0.9,
        nesterov=not settings.milestones,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    schedule = _build_schedule(optimizer, settings, steps)
    model.to(memory_format=memory_format(images))
    model.train()
    started = time.perf_counter()
    compute_gradients = _build_pass(model, images, loss_fn, settings)
    if pure and device.type == "cuda":
        compute_gradients = RecordedPass(compute_gradients)
    loss_value, summed = float("nan"), torch.zeros((), device=device)
    batches = islice(_draw_batches(len(images), batch, generator), settings.epochs * steps)
    for step, rows in enumerate(batches, 1):
        loss = compute_gradients(rows, *_draw_moves(batch, settings, generator))
        optimizer.step()
        schedule.step()
        summed += loss
        if step % steps:
            continue
        loss_value = float(summed) / steps
        summed.zero_()
        on_epoch_end()
        if not np.isfinite(loss_value):
            break
    finite = bool(np.isfinite(loss_value))
    return TrainResult(finite, time.perf_counter() - started, loss_value)


def _build_pass(model: nn.Module, images: Tensor, loss_fn: LossFn, settings: TrainSettings) -> Pass:
    """Build the pass from rows and their moves to the loss, which replaces the gradients."""

    def run(rows: Tensor, corners: Tensor, mirrored: Tensor) -> Tensor:
        inputs = normalise(_move(images[rows], settings, corners, mirrored))
        loss = loss_fn(forward(model, inputs), rows, inputs)
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return run


def _draw_batches(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield row numbers `[batch]` without end, in a new random order for each pass.

    A pass has each row at most once. An incomplete last batch is left out.
    """
    while True:
        order = torch.randperm(count, generator=generator, device=generator.device)
        yield from torch.split(order[: count - count % batch], batch)


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the model's top-1, int64 `[n]` on the CPU, for uint8 images `[n, 3, H, W]`."""
    model.eval()
    parts = torch.split(images, _EVALUATION_BATCH)
    return torch.cat([forward(model, normalise(part)).argmax(1) for part in parts]).cpu()


def forward(model: nn.Module, inputs: Tensor) -> Tensor:
    """Compute float32 logits of normalised images.

    The network runs in bfloat16 on CUDA. It does so on a CPU with instructions for it, in training
    and for large images, unless its convolutions have groups: those are slower in bfloat16 there.
    """
    kind = inputs.device.type
    is_reduced = kind == "cuda" or (
        model.training
        and _is_large(inputs)
        and trains_in_bfloat16(inputs.device)
        and not any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())
    )
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=is_reduced):
        logits: Tensor = model(inputs)
    return logits.float()


def percent_equal(left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Return the percentage of equal entries; every entry has the same weight."""
    return 100.0 * float(np.mean(left == right))


def normalise(images: Tensor) -> Tensor:
    """Scale uint8 to float32 in -1..1; in a bundle this is mean 0.5 and standard deviation 0.5."""
    return images.float().div_(127.5).sub_(1.0)


def _build_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Build the learning-rate schedule, which steps after every batch.

    steps: batches in an epoch.
    """
    if settings.milestones:
        ends = [epoch * steps for epoch in settings.milestones]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, ends, gamma=settings.gamma)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.lr, total_steps=settings.epochs * steps
    )


def augment(images: Tensor, settings: TrainSettings, generator: torch.Generator) -> Tensor:
    """Shift each image at random, fill the border with black, and mirror half of the images."""
    return _move(images, settings, *_draw_moves(len(images), settings, generator))


def _draw_moves(
    count: int, settings: TrainSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw corners int64 `[2, count]` in the padded image, and whether to mirror, `[count, 1]`."""
    device = generator.device
    corners = torch.zeros((2, count), dtype=torch.int64, device=device)
    mirrored = torch.zeros((count, 1), dtype=torch.bool, device=device)
    if settings.augment:
        places = 2 * settings.augment + 1
        corners = torch.randint(0, places, (2, count), generator=generator, device=device)
    if settings.flip:
        mirrored = torch.randint(0, 2, (count, 1), generator=generator, device=device).bool()
    return corners, mirrored


def _move(images: Tensor, settings: TrainSettings, corners: Tensor, mirrored: Tensor) -> Tensor:
    """Shift and mirror images as drawn."""
    if settings.augment == 0 and not settings.flip:
        return images
    count, _, height, width = images.shape
    device = images.device
    images = functional.pad(images, (settings.augment,) * 4)
    rows = torch.arange(height, device=device) + corners[0, :, None]
    columns = torch.arange(width, device=device) + corners[1, :, None]
    columns = torch.where(mirrored, columns.flip(1), columns)
    # One gather of whole pixels from a flat list is faster than indexing three dimensions.
    first = torch.arange(count, device=device)[:, None] * images.shape[2]
    places = (first + rows)[:, :, None] * images.shape[3] + columns[:, None, :]
    pixels_flat = images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])
    shifted = pixels_flat.index_select(0, places.view(-1)).view(count, height, width, -1)
    return shifted.permute(0, 3, 1, 2)


def memory_format(images: Tensor) -> torch.memory_format:
    """Return the fastest memory format for these images `[n, 3, H, W]` and their networks."""
    fast = images.device.type == "cuda" or _is_large(images)
    return torch.channels_last if fast else torch.contiguous_format


def _is_large(images: Tensor) -> bool:
    return min(images.shape[2:]) >= _LARGE
