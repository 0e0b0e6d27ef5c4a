"""A runtime for MLServer, which has no binary tensors over HTTP: images come as base64 in JSON."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from tiny_net import SIZE, top


class Tiny(MLModel):
    async def load(self) -> bool:
        top(np.zeros((1, SIZE, SIZE, 3), np.uint8))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        files = Base64Codec.decode_input(payload.inputs[0])
        images = np.frombuffer(bytearray(b"".join(files)), np.uint8).reshape(-1, SIZE, SIZE, 3)
        indices, scores = top(images)
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output("indices", indices),
                NumpyCodec.encode_output("scores", scores),
            ],
        )
