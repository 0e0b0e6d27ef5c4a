"""The engines: they turn images into `SparseLogits`, and never return raw logits."""

import threading
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stingy_protection import (
    LogitsRejected,
    NoisyPolicy,
    Policy,
    ProtectionError,
    SparseLogits,
    keyed_noise,
    sanitize,
)
from stingy_server.codec.images import Pixels
from stingy_server.errors import INTERNAL, REFUSED, Refusal, ServiceError
from stingy_server.inference.batch_queue import Answered
from stingy_server.inference.flags import Flags, mark
from stingy_server.inference.forward import Forward
from stingy_server.inference.thread_batcher import AnswerFunction, ThreadBatcher
from stingy_server.settings import Settings

CUDA_THREADS = 2  # one pass copies its pixels while the other computes


class Engine(Protocol):
    """The interface of a model worker to the edge."""

    async def predict(self, images: Pixels, *, caller: str, flags: Flags | None = None) -> Answered:
        """Answer RGB images [batch, height, width, 3] of the model's input size.

        Args:
            caller: the id of the key, which has its share of the queue.
            flags: one for each image, or None for no flags at all. An engine that gets no logits
                refuses flags.
        """

    async def ready(self) -> bool:
        """Return whether the model can answer at present."""

    async def close(self) -> None:
        """Answer the requests in flight, then release the model."""


def apply_gate(
    policy: Policy,
    logits: torch.Tensor,
    *,
    pixels: torch.Tensor,
    secret: bytes,
    flags: Flags | None = None,
) -> SparseLogits:
    """Pass logits through the gate.

    A noisy policy gets noise keyed by the pixels, because repeated queries must not average it out.

    Args:
        logits: [batch, classes].
        pixels: uint8 [batch, height, width, 3], the images of these logits.
        secret: the key of the noise.
        flags: the flags of these images, if any has one.
    """
    noise = None
    if isinstance(policy, NoisyPolicy):
        noise = keyed_noise(secret, pixels, policy.num_classes)
    answer = sanitize(policy, logits, noise=noise)
    if flags is None:
        return answer
    return mark(answer, flags, policy=policy, logits=logits, noise=noise)


def refusal_of(error: Exception) -> Refusal:
    """Return the refusal that a client gets for an error of an engine."""
    if isinstance(error, ServiceError):
        return error.refusal
    return REFUSED if isinstance(error, ProtectionError) else INTERNAL


class _InProcess(ABC):
    """A model in this process behind model threads, which run `_answer_pass`."""

    def __init__(self, settings: Settings, *, threads: int = 1) -> None:
        self._batch_size = settings.batch_size
        self._strict = settings.strict
        self._batcher = ThreadBatcher(
            self.answer,
            batch_size=settings.batch_size,
            max_delay_s=settings.max_delay_ms / 1000,
            queue_images=settings.queue_images,
            queue_bytes=settings.queue_bytes,
            share=settings.share,
            threads=threads,
        )

    async def predict(self, images: Pixels, *, caller: str, flags: Flags | None = None) -> Answered:
        return await self._batcher.submit(images, caller=caller, flags=flags)

    async def ready(self) -> bool:
        return True  # it has answered its trial, and no other process is involved

    async def close(self) -> None:
        await self._batcher.close()

    def answer(self, images: Pixels, flags: Flags | None = None) -> SparseLogits:
        """Run model and policy in passes of `batch_size`; model threads call this."""
        size = self._batch_size
        passes = [
            self._answer_within_memory(images[start : start + size], _part(flags, start, size))
            for start in range(0, len(images), size)
        ]
        return passes[0] if len(passes) == 1 else SparseLogits.concatenate(passes)

    def _answer_within_memory(self, images: Pixels, flags: Flags | None) -> SparseLogits:
        """Answer in one pass, or in two halves if the device has too little memory.

        Raises torch.OutOfMemoryError for a single image. Also raises it with `strict`, because
        a padded pass of fewer images needs as much memory.
        """
        try:
            return self._answer_pass(images, flags)
        except torch.OutOfMemoryError:
            if self._strict or len(images) == 1:
                raise
        # Outside the handler, because the error keeps the tensors of the failed pass alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = len(images) // 2
        return SparseLogits.concatenate(
            [
                self._answer_within_memory(images[:middle], _part(flags, 0, middle)),
                self._answer_within_memory(images[middle:], _part(flags, middle, len(images))),
            ]
        )

    @abstractmethod
    def _answer_pass(self, images: Pixels, flags: Flags | None) -> SparseLogits:
        """Answer at most `batch_size` images."""

    def _pad(self, images: Pixels) -> Pixels:
        """Append black images up to a whole batch if `strict` is set."""
        if not self._strict or len(images) == self._batch_size:
            return images
        padded = np.zeros((self._batch_size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        return padded


def _part(flags: Flags | None, start: int, size: int) -> Flags | None:
    return None if flags is None else flags[start : start + size]


class _Streams(threading.local):
    """A CUDA stream for each thread, so one pass copies while another computes."""

    def __init__(self, device: torch.device) -> None:
        self.own: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def use(self) -> AbstractContextManager[object]:
        """Make this thread's stream the current one. Do nothing on the CPU."""
        return torch.cuda.stream(self.own) if self.own else nullcontext()


class EmbeddedEngine(_InProcess):
    """A network and its policy in this process, run by one model thread, or by two on CUDA.

    Args:
        forward: the network behind its preprocessing.
        secret: the key of a policy's noise.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        policy: Policy,
        settings: Settings,
        secret: bytes,
    ) -> None:
        self.device = forward.device
        self._forward = forward
        self._policy = policy
        self._secret = secret
        self._streams = _Streams(self.device)
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            torch.cuda.synchronize(self.device)  # so every stream has the weights
        super().__init__(settings, threads=CUDA_THREADS if on_cuda else 1)

    @torch.inference_mode()
    def _answer_pass(self, images: Pixels, flags: Flags | None) -> SparseLogits:
        with self._streams.use():
            return self._answer_on_stream(images, flags)

    def _answer_on_stream(self, images: Pixels, flags: Flags | None) -> SparseLogits:
        pixels = self._copy_to_device(self._pad(images))
        logits = self._forward(pixels)
        count = len(images)
        return apply_gate(
            self._policy,
            logits[:count],
            pixels=pixels[:count],
            secret=self._secret,
            flags=flags,
        )

    def _copy_to_device(self, images: Pixels) -> Tensor:
        """Copy pixels to the device. On CUDA, copy from pinned memory and do not wait."""
        if self.device.type != "cuda":
            # A request's own bytes are read-only, and torch.from_numpy warns of read-only arrays.
            return torch.from_numpy(np.require(images, requirements="W")).to(self.device)
        pinned = torch.empty(images.shape, dtype=torch.uint8, pin_memory=True)
        pinned.numpy()[:] = images
        return pinned.to(self.device, non_blocking=True)


class FusedEngine(_InProcess):
    """A fused artefact in this process, whose program applies the policy.

    Args:
        program: the function that `open_artefact` returned.
    """

    def __init__(self, program: AnswerFunction, *, settings: Settings) -> None:
        self._program = program
        super().__init__(settings)

    def _answer_pass(self, images: Pixels, flags: Flags | None) -> SparseLogits:
        if flags is not None:
            raise LogitsRejected("expected no flags for an artefact, which returns no logits")
        answer = self._program(self._pad(images))
        return answer if len(answer) == len(images) else answer.rows(0, len(images))
