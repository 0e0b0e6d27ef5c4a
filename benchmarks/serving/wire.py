"""The formats in which each kind of server takes images and returns answers."""

import base64
import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from servers.binary import HEADER_LENGTH
from servers.tiny_net import MODEL, SIZE, TOP, top

CHECKED = 16  # images: checked before the measurement, sent in turn during it
TOLERANCE = 0.002  # of a score, for the policy's grid and the noise of a batch


@dataclass(frozen=True)
class Answer:
    """The indices and scores of a response, both [batch, 10]."""

    indices: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Wire:
    """A format of requests and answers.

    Attributes:
        write: returns headers and body for images [batch, 32, 32, 3].
        read: returns the answer, given headers and body.
    """

    name: str
    path: str
    write: Callable[[np.ndarray], tuple[dict[str, str], bytes]]
    read: Callable[[http.client.HTTPMessage, bytes], Answer]


class WrongAnswer(Exception):
    """A server's answer differs from the model's; the message says how."""


def images(count: int, *, size: int = SIZE) -> np.ndarray:
    """Return random images, the same in every run, uint8 [count, size, size, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def write_binary(batch: np.ndarray) -> tuple[dict[str, str], bytes]:
    pixels = batch.tobytes()
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": batch.shape,
        "parameters": {"binary_data_size": len(pixels)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
    return headers, head + pixels


def _read_binary(headers: http.client.HTTPMessage, body: bytes) -> Answer:
    split = int(headers[HEADER_LENGTH])
    found = {}
    for output in json.loads(body[:split])["outputs"]:
        dtype = "<i8" if output["datatype"] == "INT64" else "<f4"
        count = int(np.prod(output["shape"]))
        values = np.frombuffer(body, dtype, count, offset=split)
        found[output["name"]] = values.reshape(output["shape"])
        split += values.nbytes
    return Answer(found["indices"], found["scores"])


def _to_base64(image: np.ndarray) -> str:
    return base64.b64encode(image.tobytes()).decode()


def _write_json(document: object) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": "application/json"}, json.dumps(document).encode()


def _write_mlserver(batch: np.ndarray) -> tuple[dict[str, str], bytes]:
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(batch), 1],
        "parameters": {"content_type": "base64"},
        "data": [_to_base64(image) for image in batch],
    }
    return _write_json({"inputs": [tensor]})


def _read_mlserver(_: http.client.HTTPMessage, body: bytes) -> Answer:
    outputs = {output["name"]: output for output in json.loads(body)["outputs"]}
    return Answer(
        *(
            np.array(outputs[name]["data"]).reshape(outputs[name]["shape"])
            for name in ("indices", "scores")
        )
    )


def _read_rows(_: http.client.HTTPMessage, body: bytes) -> Answer:
    found = json.loads(body)
    rows = found if isinstance(found, list) else [found]
    return Answer(*(np.array([row[name] for row in rows]) for name in ("indices", "scores")))


OIP_PATH = f"/v2/models/{MODEL}/infer"
BINARY = Wire("binary", OIP_PATH, write_binary, _read_binary)
TORCHSERVE = Wire("binary", f"/predictions/{MODEL}", write_binary, _read_binary)
MLSERVER = Wire("JSON, base64", OIP_PATH, _write_mlserver, _read_mlserver)
LITSERVE = Wire(
    "JSON, base64",
    "/predict",
    lambda batch: _write_json({"image": _to_base64(batch[0])}),
    _read_rows,
)
BENTOML = Wire(
    "JSON, base64",
    "/predict",
    lambda batch: _write_json({"images": [_to_base64(image) for image in batch]}),
    _read_rows,
)


def check(wire: Wire, port: int, headers: dict[str, str]) -> None:
    """Send the images one by one and compare the answers with the model's.

    Raises:
        WrongAnswer: a status, a class or a score is wrong, or an answer cannot be read.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        for image in images(CHECKED):
            own, body = wire.write(image[None])
            connection.request("POST", wire.path, body, own | headers)
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise WrongAnswer(f"expected status 200, got {response.status}: {content[:200]!r}")
            _compare(image, wire.read(response.headers, content))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise WrongAnswer(f"expected a readable answer, got {error!r}") from None
    finally:
        connection.close()


def _compare(image: np.ndarray, answer: Answer) -> None:
    indices, scores = top(image[None].copy())
    if answer.indices.shape != (1, TOP) or answer.scores.shape != (1, TOP):
        raise WrongAnswer(f"expected [1, {TOP}], got {list(answer.indices.shape)}")
    # Log-probabilities over the support equal the logits minus a constant for each row.
    found = dict(zip(answer.indices[0].tolist(), answer.scores[0].tolist(), strict=True))
    if set(found) != set(indices[0].tolist()):
        raise WrongAnswer("expected the model's classes, got others")
    gaps = np.array([found[index] for index in indices[0].tolist()]) - scores[0]
    if np.ptp(gaps) > TOLERANCE:
        raise WrongAnswer(f"expected scores within {TOLERANCE}, got a gap of {np.ptp(gaps):.4f}")
