"""The trial of a model: a few passes, before it is served, that show faults no file shows.

An image alone and the same image beside others must get the same answer, in every size of batch,
each time. Each kind of fault has its own sentence.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stingy_protection import LogitsRejected, Preprocessing
from stingy_protection.bundles.manifest import Outputs
from stingy_protection.bundles.outputs import find_form_fault, unwrap_logits
from stingy_server.codec.images import Pixels
from stingy_server.inference.forward import Forward

log = logging.getLogger("stingy")

MOST_S = 3.0  # seconds of the passes with a whole batch; fewer images are tried if they take longer
BRIGHTEST = 240  # of a trial image
LAST_BITS = 1e-6  # with `strict`, as a fraction of the spread; float32 has steps of 1.2e-7
# The difference of two answers, as a fraction of the spread of a row's logits, that arithmetic in
# another order may make. Deep float32 networks were measured at 1e-6 to 3e-5. TF32 rounds to 10
# bits on CUDA, bfloat16 to 8. Batch statistics and dropout move logits by a tenth and more.
TOLERANCES = {"cpu": 1e-3, "cuda": 1e-2}
HALF_TOLERANCE = 0.1  # of bfloat16 and float16
ROUNDINGS = 4  # steps of the arithmetic, of the largest logit; they exceed a very small spread
# Of the spread, below which rows of different images are suspect. Mean and std of pixels from 0 to
# 255 leave less.
SIMILAR = 0.1
LOOK = "look at the weights, and at mean and std, which are of pixels / 255"
RANDOM = (
    "expected the same answer to the same images each time, got different ones; "
    "an active dropout, or other random numbers in the network"
)
REPEAT = 0.1  # of the tolerance, between two passes of one shape


@dataclass(frozen=True)
class Trial:
    """The outcome of a trial.

    Attributes:
        faults: one sentence per fault.
        raised: whether the model raised an error for every image. Another layout of the inputs may
            help then.
        wrapped: whether the logits came within another object.
        nonfinite: whether a logit was NaN or infinite.
    """

    faults: tuple[str, ...]
    raised: bool = False
    wrapped: bool = False
    nonfinite: bool = False


class _Fault(Exception):
    """A fault that ends the trial. The text is its sentence."""


def make_trial_images(preprocessing: Preprocessing, count: int) -> Pixels:
    """Make images [count, height, width, 3]: noise, black, bright, and noise of every brightness.

    They are the same at each call. A grey model's images are grey.
    """
    rng = np.random.default_rng(0)
    height, width = preprocessing.size
    images = np.empty((count, height, width, 3), np.uint8)
    for place in range(count):  # one by one, because the numbers in between take eight times more
        most = {0: BRIGHTEST, 1: 0}.get(place, int(rng.integers(BRIGHTEST // 8, BRIGHTEST)))
        images[place] = rng.integers(0, most + 1, images.shape[1:], dtype=np.uint8)
    images[2:3] = BRIGHTEST
    if preprocessing.channels == 1:
        images[:] = images[..., :1]
    return images


@torch.inference_mode()
def try_forward(
    forward: Forward,
    *,
    preprocessing: Preprocessing,
    num_classes: int,
    outputs: Outputs,
    batch_size: int,
    strict: bool,
) -> Trial:
    """Try a model on an image alone and beside others, each pass twice.

    Args:
        forward: the model.
        num_classes: the number of labels.
        outputs: the declared form of its outputs.
        batch_size: the most images of a pass.
        strict: whether every pass is padded to `batch_size`. Answers must then be equal up to
            the last bits.
    """
    trial = _Trial(forward, num_classes=num_classes, batch_size=batch_size, strict=strict)
    images = make_trial_images(preprocessing, max(3, batch_size))
    try:
        first = trial.try_small_batches(images)
        trial.check_form(first, outputs)
        trial.check_answers(images)
        trial.check_use(images, first)
    except _Fault as fault:
        return Trial(
            (str(fault),),
            raised=trial.raised,
            wrapped=trial.wrapped,
            nonfinite=trial.nonfinite,
        )
    return Trial((), wrapped=trial.wrapped)


class _Trial:
    """The passes of a trial and what they found."""

    def __init__(
        self, forward: Forward, *, num_classes: int, batch_size: int, strict: bool
    ) -> None:
        self.raised = self.wrapped = self.nonfinite = False
        self._forward = forward
        self._num_classes = num_classes
        self._batch_size = batch_size
        self._strict = strict
        self._seconds = 0.0  # of the latest pass, per image

    def try_small_batches(self, images: Pixels) -> Tensor:
        """Run the first images in batches of 1 and 2, and return all rows that they got.

        Raises _Fault if one raises an error or has another shape.
        """
        rows: list[Tensor] = []
        failed: dict[int, Exception] = {}
        for size in (1, 2)[: self._batch_size]:
            try:
                rows.append(self._run(images[:size]))
            except _Fault:
                raise
            except Exception as error:  # noqa: BLE001  a network may raise anything
                failed[size] = error
        if failed and rows:
            self._raise_static(failed)
        if failed:
            self.raised = True
            text = str(failed[1]).partition("\n")[0][:200]
            kind = type(failed[1]).__name__
            raise _Fault(f"a trial image could not be answered: {kind}: {text}")
        return torch.cat(rows)

    def check_form(self, rows: Tensor, outputs: Outputs) -> None:
        """Check that rows are logits or probabilities, as declared."""
        if (fault := find_form_fault(rows, outputs)) is not None:
            raise _Fault(fault)

    def check_answers(self, images: Pixels) -> None:
        """Compare the rows of images that are alone, in pairs and in whole batches, each twice."""
        alone = self._run_twice(images[:1])
        if self._batch_size > 1 and not self._strict:
            self._compare_mates(alone, self._run_twice(images[:2]))
        whole = images[: self._choose_whole()].copy()
        whole[-1] = images[0]  # the place in the batch must not matter either
        try:
            rows = self._run_twice(whole)
        except torch.OutOfMemoryError:
            if self._strict:
                raise _Fault(
                    f"expected memory for batches of {self._batch_size}, got too little; "
                    "set a smaller batch_size"
                ) from None
            log.warning("trial: a batch of %d exceeds the memory; it is halved", len(whole))
            return
        except _Fault:
            raise
        except Exception as error:  # noqa: BLE001  as above
            self._raise_static({len(whole): error})
        self._compare_mates(alone, rows)
        self._compare_mates(alone, rows[-1:])

    def check_use(self, images: Pixels, first: Tensor) -> None:
        """Warn if noise, a black and a bright image get one class and almost the same row.

        Networks do so whose weights are empty, whose inputs are far too small, or whose mean and
        std are those of pixels from 0 to 255.

        Args:
            first: rows of the first image and, if batches may have two, of the second.
        """
        step = ROUNDINGS * torch.finfo(torch.float32).eps
        if _differ(first[:1], first[-1:], SIMILAR, step=step):
            return
        rows = torch.cat([self._run(images[place : place + 1]) for place in range(3)])
        one_class = len(set(rows.argmax(dim=1).tolist())) == 1
        if one_class and not _differ(rows, rows.roll(1, 0), SIMILAR, step=step):
            log.warning(
                "trial: noise, a black and a bright image got one class and almost the same "
                "logits; %s",
                LOOK,
            )

    def _choose_whole(self) -> int:
        if self._strict:
            return self._batch_size
        most = int(MOST_S / 2 / max(self._seconds, 1e-9))
        if most < self._batch_size:
            log.info("trial: batches of %d of %d images", max(3, most), self._batch_size)
        return min(self._batch_size, max(3, most))

    def _run_twice(self, images: Pixels) -> Tensor:
        first, second = self._run(images), self._run(images)
        allowed = REPEAT * self._tolerance
        if _differ(first, second, allowed, step=self._step):
            raise _Fault(RANDOM)
        return first

    def _compare_mates(self, alone: Tensor, rows: Tensor) -> None:
        if _differ(alone, rows[:1], self._tolerance, step=self._step):
            raise _Fault(
                "expected an answer that depends on one image, got another one beside other images"
                f"; {self._guess_dependence()}"
            )

    def _guess_dependence(self) -> str:
        network = self._forward.network
        found = [
            name
            for name, module in (network.named_modules() if isinstance(network, nn.Module) else ())
            if isinstance(module, _BatchNorm) and module.running_mean is None
        ]
        if found:
            return f"{found[0]} normalises by the batch: train it with track_running_stats = True"
        return "the network normalises, scales or sorts over the batch"

    @property
    def _tolerance(self) -> float:
        if self._strict:
            return LAST_BITS
        if self._forward.arithmetic != torch.float32:
            return HALF_TOLERANCE
        return TOLERANCES[self._forward.device.type]

    @property
    def _step(self) -> float:
        return ROUNDINGS * torch.finfo(self._forward.arithmetic).eps

    def _run(self, images: Pixels) -> Tensor:
        """Return the rows of images, float64 [batch, classes]. Raises _Fault for another shape."""
        count = len(images)
        if self._strict and count < self._batch_size:
            padding = np.zeros((self._batch_size - count, *images.shape[1:]), np.uint8)
            images = np.concatenate([images, padding])
        started = time.perf_counter()
        output: Any = self._forward.run(torch.from_numpy(images).to(self._forward.device))
        self.wrapped = not isinstance(output, Tensor)
        try:
            rows = unwrap_logits(output)
        except LogitsRejected as error:
            raise _Fault(str(error)) from None
        expected = [len(images), self._num_classes]
        if rows.ndim == 2 and len(rows) == len(images) and rows.shape[1] != self._num_classes:
            raise _Fault(
                f"expected one logit for each of {self._num_classes} classes, "
                f"got {rows.shape[1]} an image"
            )
        if list(rows.shape) != expected or not rows.is_floating_point():
            got = f"{list(rows.shape)} of the type {str(rows.dtype).removeprefix('torch.')}"
            raise _Fault(f"expected logits of the shape {expected}, floating point, got {got}")
        found = rows[:count].double().cpu()
        if not bool(found.isfinite().all()):
            self.nonfinite = True
            raise _Fault("expected finite logits for trial images, got NaN or infinity")
        self._seconds = (time.perf_counter() - started) / len(images)
        return found

    def _raise_static(self, failed: dict[int, Exception]) -> None:
        sizes = " and ".join(map(str, failed))
        kind = type(next(iter(failed.values()))).__name__
        raise _Fault(
            f"expected answers to batches of any size, got {kind} for a batch of {sizes}; "
            "the batch axis is static: export the model with a dynamic one"
        )


def _differ(rows: Tensor, others: Tensor, tolerance: float, *, step: float) -> bool:
    """Return true if a logit differs by more than arithmetic in another order explains.

    Args:
        tolerance: a fraction of the spread of its row.
        step: a fraction of the largest logit of its row.
    """
    spread = rows.max(dim=1, keepdim=True).values - rows.min(dim=1, keepdim=True).values
    largest = rows.abs().max(dim=1, keepdim=True).values
    return bool(((rows - others).abs() > tolerance * spread + step * largest).any())
