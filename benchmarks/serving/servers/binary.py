"""The part of the Open Inference Protocol's binary tensor extension that the benchmark needs."""

import numpy as np
import orjson

HEADER_LENGTH = "Inference-Header-Content-Length"
MEDIA_TYPE = "application/octet-stream"


def read(body: bytes, header_length: str) -> np.ndarray:
    """Return the images of a request, uint8 [batch, height, width, 3]."""
    split = int(header_length)
    (tensor,) = orjson.loads(body[:split])["inputs"]
    return np.frombuffer(body, np.uint8, offset=split).reshape(tensor["shape"])


def write(model: str, indices: np.ndarray, scores: np.ndarray) -> tuple[bytes, str]:
    """Return the body of an answer and the length of its JSON part.

    Args:
        indices: int64 [batch, 10].
        scores: float32 [batch, 10].
    """
    outputs = [
        {
            "name": name,
            "datatype": datatype,
            "shape": values.shape,
            "parameters": {"binary_data_size": values.nbytes},
        }
        for name, datatype, values in (("indices", "INT64", indices), ("scores", "FP32", scores))
    ]
    head = orjson.dumps({"model_name": model, "model_version": "1", "outputs": outputs})
    return b"".join([head, indices.tobytes(), scores.tobytes()]), str(len(head))
