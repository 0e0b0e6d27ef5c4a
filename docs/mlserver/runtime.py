"""MLServer runtimes for a bundle: `Gated` returns answers of its policy, `Logits` raw logits."""

from importlib import import_module

import numpy as np
import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from stingy_protection import (
    build_policy,
    parse_policy,
    read_manifest,
    sanitize,
    verified_weights,
)


class Logits(MLModel):
    """A runtime from `image` FP32 [batch, 3, height, width] to `logits` FP32 [batch, classes].

    Only the edge may reach it, because every other client would get the raw logits.
    """

    async def load(self) -> bool:
        bundle = self.settings.parameters.uri
        self.manifest = read_manifest(bundle)
        module, _, attribute = self.manifest.factory.partition(":")
        self.network = getattr(import_module(module), attribute)(**self.manifest.arguments)
        self.network.load_state_dict(verified_weights(bundle, self.manifest))
        # Compute in the layout of Stingy's own engine, because another one rounds differently.
        self.network.eval().to(memory_format=torch.channels_last)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = torch.from_numpy(NumpyCodec.decode_input(payload.inputs[0]))
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        return self.response(logits=self.logits(inputs).numpy())

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.network(inputs)

    def response(self, **outputs: np.ndarray) -> InferenceResponse:
        encoded = [NumpyCodec.encode_output(name, values) for name, values in outputs.items()]
        return InferenceResponse(model_name=self.name, outputs=encoded)


class Gated(Logits):
    """A runtime from `image` UINT8 [batch, height, width, 3] to `indices`, `scores` [batch, N]."""

    async def load(self) -> bool:
        await super().load()
        name, options = parse_policy(self.manifest.policy)
        self.policy = build_policy(name, num_classes=len(self.manifest.classes), **options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        pixels = torch.from_numpy(NumpyCodec.decode_input(payload.inputs[0]))
        image = self.manifest.preprocessing
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (image.mean, image.std))
        inputs = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
        answer = sanitize(self.policy, self.logits(inputs))
        outputs = {"indices": answer.indices.numpy()}
        if answer.scores is not None:
            outputs["scores"] = answer.scores.numpy()
        return self.response(**outputs)
