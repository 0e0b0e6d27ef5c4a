"""A fake server that writes the wire format by hand, for both clients."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
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
# The scores of each answer, by their form.
SCORES = {
    "log_prob": (-0.467, -0.985),
    "prob": (0.627, 0.373),
    "logit": (2.5, 1.982),
    "rank": (1.0, 2.0),
}


@dataclass
class FakeServer:
    """A server that answers class c and its successor: c is the first pixel or the last byte.

    Args:
        next: the outcomes of the next requests: a response, an error to raise, or None to answer.
        takes: the images that it takes in one request, if they are fewer than it says.
        version: the version that answers if none is named. It is the first of `versions`.
        names: the models of `GET /v1/models`. Only pets can be queried.
        released: leave out what servers of release 0.1.0 do not say.
        requests: the requests so far.
        charged: the number of images charged so far.
    """

    max_batch: int = 3
    max_pixels: int | None = None
    max_bytes: int | None = None
    takes: int | None = None
    form: str = "log_prob"
    version: str = "1"
    versions: list[str] = field(default_factory=lambda: ["1"])
    names: list[str] = field(default_factory=lambda: ["pets"])
    released: bool = False
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
        route = self._routes().get(request.url.path)
        return route(request) if route else refuse(404, "not_found")

    def _routes(self) -> dict[str, Callable[[httpx.Request], httpx.Response]]:
        found: dict[str, Callable[[httpx.Request], httpx.Response]] = {
            "/v1/usage": self._usage,
            "/v1/models": self._list,
            "/v2/health/ready": lambda _: httpx.Response(200),
            "/v2/models/pets": self._metadata,
            "/v1/predict/pets": self._predict,
            "/v2/models/pets/infer": self._infer,
        }
        for version in self.versions:
            path = f"/v2/models/pets/versions/{version}"
            found[path] = partial(self._metadata, version=version)
            found[f"{path}/infer"] = partial(self._infer, version=version)
        return found

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

    def _list(self, _: httpx.Request) -> httpx.Response:
        models = [self.served(name) for name in self.names]
        return httpx.Response(200, json={"models": models})

    def served(self, name: str) -> dict[str, Any]:
        """Describe a model as `GET /v1/models` does."""
        return {
            "name": name,
            "version": self.version,
            "versions": self.versions,
            "num_classes": len(self.labels),
            "image_size": [8, 8],
            "answer": f"top 2 of {len(self.labels)} classes, {self.form} at 3 decimals",
            "scores": self.form,
            "max_batch": self.max_batch,
            "max_pixels": self.max_pixels or 2**24,
            "max_bytes": self.max_bytes or 2**20,
        }

    def _metadata(self, _: httpx.Request, version: str | None = None) -> httpx.Response:
        return httpx.Response(200, json=self.metadata(version or self.version))

    def metadata(self, version: str) -> dict[str, Any]:
        """Describe a version as the Open Inference Protocol does."""
        more = {
            "version": version,
            "max_pixels": self.max_pixels or 2**24,
            "max_bytes": self.max_bytes or 2**20,
        }
        return {
            "name": "pets",
            "versions": [self.version, *(v for v in self.versions if v != self.version)],
            "platform": "stingy",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
            "outputs": [{"name": "indices", "datatype": "INT64", "shape": [-1, 2]}],
            "parameters": {
                "labels": self.labels,
                "num_classes": len(self.labels),
                "policy": "stingy",
                "support": 2,
                "scores": self.form,
                "decimals": 3,
                "fingerprint": "0123456789ab",
                "image_size": [8, 8],
                "max_batch": self.max_batch,
                **({} if self.released else more),
            },
        }

    def _predict(self, request: httpx.Request) -> httpx.Response:
        self.charged += 1
        first = request.content[-1] % len(self.labels)
        second = (first + 1) % len(self.labels)
        classes: list[dict[str, Any]] = [
            {"index": index, "label": self.labels[index]} for index in (first, second)
        ]
        if self.form != "none":
            classes[0]["score"], classes[1]["score"] = SCORES[self.form]
        answers = [{"classes": classes}]
        body = {"model": "pets", "version": self.version, "answers": answers}
        return httpx.Response(200, json=body | ({} if self.released else {"scores": self.form}))

    def _infer(self, request: httpx.Request, version: str | None = None) -> httpx.Response:
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
        if len(first) > (self.takes or self.max_batch):
            return refuse(413, "too_large")
        self.charged += len(first)
        indices = np.stack([first, (first + 1) % len(self.labels)], axis=1)
        scores = None if self.form == "none" else np.tile(SCORES[self.form], (len(first), 1))
        form = None if self.released else self.form
        return infer_response(indices, scores, version=version or self.version, form=form)


def split_bytes(data: bytes) -> list[bytes]:
    """Split a BYTES tensor into its elements. A length of 4 bytes, little-endian, precedes each."""
    found = []
    while data:
        (size,) = struct.unpack_from("<I", data)
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def infer_response(indices: Any, scores: Any, *, version: str, form: str | None) -> httpx.Response:
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
    document: dict[str, Any] = {"model_name": "pets", "model_version": version, "outputs": outputs}
    if form is not None:
        document["parameters"] = {"scores": form}
    head = json.dumps(document).encode()
    body = head + b"".join(data for _, _, data in blobs.values())
    return httpx.Response(200, content=body, headers={LENGTH: str(len(head))})


def refuse(status: int, code: str, **headers: str) -> httpx.Response:
    """Build an error response."""
    body = {"code": code, "message": "A fixed sentence.", "request_id": "r-1"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={"error": body}, headers=named)
