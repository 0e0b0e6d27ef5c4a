"""An MLServer runtime that tells the raw logits of a bundle: for the edge, and for nobody else."""

from importlib import import_module

import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from stingy_protection import read_manifest, verified_weights


class Logits(MLModel):
    """Takes `image` FP32 [batch, 3, height, width], tells `logits` FP32 [batch, classes]."""

    async def load(self) -> bool:
        bundle = self.settings.parameters.uri
        manifest = read_manifest(bundle)
        module, _, attribute = manifest.factory.partition(":")
        self.network = getattr(import_module(module), attribute)(**manifest.arguments)
        self.network.load_state_dict(verified_weights(bundle, manifest))
        self.network.eval()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = NumpyCodec.decode_input(payload.inputs[0])
        with torch.inference_mode():
            logits = self.network(torch.from_numpy(inputs))
        output = NumpyCodec.encode_output("logits", logits.numpy())
        return InferenceResponse(model_name=self.name, outputs=[output])
