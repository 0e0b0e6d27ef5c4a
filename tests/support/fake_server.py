"""A fake server that writes the wire format by hand, for both clients."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

CallClient = Callable[..., Any]
"""The type of the fixture `call`."""

URL = "http://stingy.test"
KEY = "sk-very-secret-key"
LABELS = ["ant", "bee", "cat", "dog", "elk"]
PNG = b"\x89PNG\r\n\x1a\n"
LENGTH = "Inference-Header-Content-Length"


@dataclass
class FakeServer:
    """A server that answers class c and its successor: c is the first pixel or the last byte.

    Args:
        next: the outcomes of the next requests: a response, an error to raise, or None to answer.
        requests: the requests so far.
        charged: the number of images charged so far.
    """

    max_batch: int = 3
    with_scores: bool = True
    version: str = "1"
    labels: list[str] = field(default_factory=lambda: list(LABELS))
    next: list[httpx.Response | Exception | None] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)
    charged: int = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.headers["Authorization"] != f"Bearer {KEY}":
            return refuse(401, "unauthenticated")
        outcome = self.next.pop(0) if self.next else None
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is not None:
            return outcome
        routes = {
            "/v1/usage": self._usage,
            "/v2/health/ready": lambda _: httpx.Response(200),
            "/v2/models/pets": self._metadata,
            "/v1/predict/pets": self._predict,
            "/v2/models/pets/infer": self._infer,
        }
        route = routes.get(request.url.path)
        return route(request) if route else refuse(404, "not_found")

    @property
    def paths(self) -> list[str]:
        return [request.url.path for request in self.requests]

    def _usage(self, _: httpx.Request) -> httpx.Response:
        used = self.charged
        day = {"budget": None, "used": 7, "resets": "2026-11-27T00:00:00Z"}
        month = {"budget": 1000, "used": used, "resets": "2026-12-01T00:00:00Z"}
        own = {"budget": 20, "used": used, "remaining": 20 - used}
        usage = {"budget": 500, "used": used, "remaining": 500 - used, "day": day, "month": month}
        return httpx.Response(200, json={"key": "abcd1234", **usage, "models": {"pets": own}})

    def _metadata(self, _: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=self.metadata())

    def metadata(self) -> dict[str, Any]:
        return {
            "name": "pets",
            "versions": [self.version],
            "platform": "stingy",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
            "outputs": [{"name": "indices", "datatype": "INT64", "shape": [-1, 2]}],
            "parameters": {
                "labels": self.labels,
                "num_classes": len(self.labels),
                "policy": "stingy",
                "support": 2,
                "scores": "log_prob" if self.with_scores else "none",
                "decimals": 3,
                "fingerprint": "0123456789ab",
                "image_size": [8, 8],
                "max_batch": self.max_batch,
            },
        }

    def _predict(self, request: httpx.Request) -> httpx.Response:
        self.charged += 1
        first = request.content[-1] % len(self.labels)
        second = (first + 1) % len(self.labels)
        classes: list[dict[str, Any]] = [
            {"index": index, "label": self.labels[index]} for index in (first, second)
        ]
        if self.with_scores:
            classes[0]["score"], classes[1]["score"] = -0.812, -1.427
        answers = [{"classes": classes}]
        return httpx.Response(
            200, json={"model": "pets", "version": self.version, "answers": answers}
        )

    def _infer(self, request: httpx.Request) -> httpx.Response:
        length = int(request.headers[LENGTH])
        document, data = json.loads(request.content[:length]), request.content[length:]
        (tensor,) = document["inputs"]
        if tensor["parameters"]["binary_data_size"] != len(data):
            return refuse(422, "bad_tensor")
        if tensor["datatype"] == "UINT8":
            pixels = np.frombuffer(data, np.uint8).reshape(tensor["shape"])
            first = pixels[:, 0, 0, 0] % len(self.labels)
        else:
            first = np.array([file[-1] % len(self.labels) for file in split_bytes(data)])
        if len(first) > self.max_batch:
            return refuse(413, "too_large")
        self.charged += len(first)
        indices = np.stack([first, (first + 1) % len(self.labels)], axis=1)
        scores = np.tile([-0.812, -1.427], (len(first), 1)) if self.with_scores else None
        return infer_response(indices, scores, version=self.version)


def split_bytes(data: bytes) -> list[bytes]:
    """Split a BYTES tensor into its elements. A length of 4 bytes, little-endian, precedes each."""
    found = []
    while data:
        (size,) = struct.unpack_from("<I", data)
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def infer_response(indices: Any, scores: Any, *, version: str) -> httpx.Response:
    """Build a binary response to an inference request."""
    blobs = {"indices": ("INT64", indices, np.asarray(indices).astype("<i8").tobytes())}
    if scores is not None:
        blobs["scores"] = ("FP32", scores, np.asarray(scores).astype("<f4").tobytes())
    outputs = [
        {
            "name": name,
            "datatype": datatype,
            "shape": list(np.shape(array)),
            "parameters": {"binary_data_size": len(data)},
        }
        for name, (datatype, array, data) in blobs.items()
    ]
    document = {"model_name": "pets", "model_version": version, "outputs": outputs}
    head = json.dumps(document).encode()
    body = head + b"".join(data for _, _, data in blobs.values())
    return httpx.Response(200, content=body, headers={LENGTH: str(len(head))})


def refuse(status: int, code: str, **headers: str) -> httpx.Response:
    """Build an error response."""
    body = {"code": code, "message": "A fixed sentence.", "request_id": "r-1"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={"error": body}, headers=named)
