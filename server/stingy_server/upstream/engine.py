"""The engine in front of an upstream, a model server in another process.

The upstream may apply the policy; then the engine verifies each answer against it. Or the upstream
returns raw logits; then the engine applies the policy, and anyone who can reach the upstream gets
the raw logits.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from stingy_protection import (
    BundleManifest,
    LogitsRejected,
    Policy,
    PolicyViolation,
    ScoreForm,
    SparseLogits,
)
from stingy_protection.bundles.outputs import find_form_fault, log_of_probabilities
from stingy_protection.gate.promises import verify_answer
from stingy_server.codec.images import Pixels
from stingy_server.errors import REFUSED, ServiceError
from stingy_server.inference.async_batcher import AsyncBatcher
from stingy_server.inference.batch_queue import Answered
from stingy_server.inference.engine import apply_gate
from stingy_server.inference.flags import Flags
from stingy_server.settings import Settings, TensorSettings
from stingy_server.upstream.http_client import Reply, Upstream, UpstreamError
from stingy_server.upstream.oip_client import Array, Request, decode_reply, encode_request
from stingy_server.upstream.readiness import Readiness

log = logging.getLogger("stingy")
T = TypeVar("T")

# Processing a batch of up to this many bytes takes less time than passing it to a thread.
INLINE_BYTES = 256 * 1024
NUMBER_BYTES = 32  # at most, for one number in JSON, with room
FRAME_BYTES = 64 * 1024  # of an answer beside its numbers


@dataclass(frozen=True)
class UpstreamFormat:
    """The form of an upstream's requests and answers.

    Args:
        tensors: the names and forms of the tensors sent and received.
        required_header: a header that every answer must have, and its value.
    """

    tensors: TensorSettings
    required_header: tuple[str, str] | None = None


class UpstreamEngine:
    """A model server that answers over the Open Inference Protocol.

    Args:
        name: the endpoint's name, for the log.
        passes: concurrent requests to the upstream. Queries that arrive meanwhile wait and are
            sent as one batch.
        secret: the key of a policy's noise.
    """

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        upstream_format: UpstreamFormat,
        *,
        manifest: BundleManifest,
        policy: Policy,
        settings: Settings,
        passes: int,
        secret: bytes,
    ) -> None:
        self._name = name
        self._upstream = upstream
        self._readiness = Readiness(upstream.ready)
        self._format = upstream_format
        self._manifest = manifest
        self._policy = policy
        self._batch_size = settings.batch_size
        self._secret = secret
        self._batcher = AsyncBatcher(
            self._answer_or_refuse,
            batch_size=settings.batch_size,
            passes=passes,
            queue_images=settings.queue_images,
            queue_bytes=settings.queue_bytes,
            share=settings.share,
        )

    async def predict(self, images: Pixels, *, caller: str, flags: Flags | None = None) -> Answered:
        """Answer images in passes of `batch_size`, in a batch with other requests.

        Raises:
            ServiceError: overloaded, upstream_failed or upstream_timeout; refused, if there are
                flags and the upstream applies the policy.
        """
        if flags is not None and self._gated:
            raise ServiceError(REFUSED)
        return await self._batcher.submit(images, caller=caller, flags=flags)

    async def ready(self) -> bool:
        """Return whether the upstream says that it is ready."""
        return await self._readiness.check()

    async def answer(self, images: Pixels, flags: Flags | None = None) -> SparseLogits:
        """Answer images in passes of `batch_size`, without batching them with other requests.

        Raises:
            UpstreamError: if there is no valid answer; the error names the cause.
        """
        size = self._batch_size
        passes = [
            await self._run_pass(
                images[start : start + size],
                None if flags is None else flags[start : start + size],
            )
            for start in range(0, len(images), size)
        ]
        return passes[0] if len(passes) == 1 else SparseLogits.concatenate(passes)

    async def find_form_fault(self, images: Pixels) -> str | None:
        """Return the fault of raw rows that are not of the form that the bundle names, or None.

        It belongs to a trial: a single row of logits may sum to 1 by chance.

        Raises:
            UpstreamError: if there is no valid answer.
        """
        if self._gated:
            return None
        parts = [
            images[at : at + self._batch_size] for at in range(0, len(images), self._batch_size)
        ]
        rows = [
            self._rows(await self._exchange(part, run=_run_inline), len(part)) for part in parts
        ]
        return find_form_fault(torch.cat(rows), self._manifest.outputs)

    async def close(self) -> None:
        await self._batcher.close()
        await self._upstream.close()

    async def _answer_or_refuse(self, images: Pixels, flags: Flags | None = None) -> SparseLogits:
        try:
            return await self.answer(images, flags)
        except UpstreamError as error:
            log.error("%s: upstream: %s", self._name, error)
            raise ServiceError(error.refusal) from None

    async def _run_pass(self, images: Pixels, flags: Flags | None) -> SparseLogits:
        run = _run_inline if images.nbytes <= INLINE_BYTES else asyncio.to_thread
        reply = await self._exchange(images, run=run)
        return await run(self._answer, reply, images, flags)

    async def _exchange(self, images: Pixels, *, run: Callable[..., Any]) -> Reply:
        request = await run(self._request, images)
        numbers = self._policy.support * 2 if self._gated else self._policy.num_classes
        return await self._upstream.post(
            request.body,
            request.headers,
            max_bytes=FRAME_BYTES + len(images) * numbers * NUMBER_BYTES,
        )

    @property
    def _gated(self) -> bool:
        return self._format.tensors.logits is None

    def _outputs(self) -> dict[str, str]:
        """Return the names and types of the only outputs that the upstream may return."""
        if self._format.tensors.logits is not None:
            return {self._format.tensors.logits: "FP32"}
        if self._policy.scores is ScoreForm.NONE:
            return {"indices": "INT64"}
        return {"indices": "INT64", "scores": "FP32"}

    def _request(self, images: Pixels) -> Request:
        tensors = self._format.tensors
        make = self._select_channels if tensors.datatype == "UINT8" else self._normalise
        return encode_request(
            tensors.input,
            make(images),
            datatype=tensors.datatype,
            outputs=tuple(self._outputs()),
            binary=tensors.binary,
        )

    def _select_channels(self, images: Pixels) -> Array:
        """Return the pixels for the upstream. A grey network itself gets one channel."""
        if self._gated or self._manifest.preprocessing.channels == 3:
            return images
        return np.ascontiguousarray(images[..., :1])

    def _normalise(self, images: Pixels) -> Array:
        """Normalise images to the model's input, float32 [batch, channels, height, width].

        The embedded engine computes the same input.
        """
        image = self._manifest.preprocessing
        channels = images[..., : image.channels].transpose(0, 3, 1, 2).astype(np.float32)
        mean = np.asarray(image.mean, np.float32).reshape(1, -1, 1, 1)
        std = np.asarray(image.std, np.float32).reshape(1, -1, 1, 1)
        return (channels / np.float32(255) - mean) / std

    def _answer(self, reply: Reply, images: Pixels, flags: Flags | None) -> SparseLogits:
        if self._format.required_header is not None:
            header, value = self._format.required_header
            found = reply.headers.get(header, "")
            # A bundle without weights knows its policy's fingerprint alone.
            if found != value and not (value.endswith(" ") and found.startswith(value)):
                raise UpstreamError("expected this endpoint's bundle and policy, got others")
        if self._gated:
            outputs = decode_reply(reply, self._outputs(), rows=len(images))
            try:
                return verify_answer(self._policy, outputs["indices"], outputs.get("scores"))
            except PolicyViolation as error:
                raise UpstreamError(f"a promise of the policy is broken: {error}") from None
        logits = self._rows(reply, len(images))
        if self._manifest.outputs == "probabilities":
            logits = log_of_probabilities(logits)
        pixels = torch.from_numpy(np.require(images, requirements="W"))
        try:
            return apply_gate(self._policy, logits, pixels=pixels, secret=self._secret, flags=flags)
        except LogitsRejected as error:
            raise UpstreamError(str(error)) from None

    def _rows(self, reply: Reply, count: int) -> Tensor:
        """Return the raw rows, [count, classes], of a reply."""
        (values,) = decode_reply(reply, self._outputs(), rows=count).values()
        return torch.from_numpy(values.copy())


async def _run_inline(step: Callable[..., T], *arguments: Any) -> T:
    return step(*arguments)
