"""How one image is asked of each kind of server, and how its answer is read."""

import base64
import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from servers.binary import HEADER_LENGTH
from servers.tiny_net import MODEL, SIZE, TOP, top

CHECKED = 16  # images that are checked before, and asked in turn while, the clock runs
TOLERANCE = 0.002  # of a score: the grid of the policy, and the batch's own noise


@dataclass(frozen=True)
class Answer:
    """Indices and scores, both [batch, 10]."""

    indices: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Wire:
    """A form of request. `write` gives headers and body for images [batch, 32, 32, 3]."""

    name: str
    path: str
    write: Callable[[np.ndarray], tuple[dict[str, str], bytes]]
    read: Callable[[http.client.HTTPMessage, bytes], Answer]


class WrongAnswer(Exception):
    """A server answered something else than the model does; the text says what."""


def images(count: int, *, size: int = SIZE) -> np.ndarray:
    """The same images in every run, uint8 [count, size, size, 3]."""
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


def _text(image: np.ndarray) -> str:
    return base64.b64encode(image.tobytes()).decode()


def _write_json(document: object) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": "application/json"}, json.dumps(document).encode()


def _write_mlserver(batch: np.ndarray) -> tuple[dict[str, str], bytes]:
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(batch), 1],
        "parameters": {"content_type": "base64"},
        "data": [_text(image) for image in batch],
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
    lambda batch: _write_json({"image": _text(batch[0])}),
    _read_rows,
)
BENTOML = Wire(
    "JSON, base64",
    "/predict",
    lambda batch: _write_json({"images": [_text(image) for image in batch]}),
    _read_rows,
)


def check(wire: Wire, port: int, headers: dict[str, str]) -> None:
    """Ask for the images one by one and compare with the model itself.

    Raises:
        WrongAnswer: a status, a class or a score is not as it must be.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        for image in images(CHECKED):
            own, body = wire.write(image[None])
            connection.request("POST", wire.path, body, own | headers)
            response = connection.getresponse()
            said = response.read()
            if response.status != 200:
                raise WrongAnswer(f"status {response.status}: {said[:200]!r}")
            _compare(image, wire.read(response.headers, said))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise WrongAnswer(f"no answer that can be read: {error!r}") from None
    finally:
        connection.close()


def _compare(image: np.ndarray, answer: Answer) -> None:
    indices, scores = top(image[None].copy())
    if answer.indices.shape != (1, TOP) or answer.scores.shape != (1, TOP):
        raise WrongAnswer(f"expected [1, {TOP}], got {list(answer.indices.shape)}")
    # Log-probabilities over the support are the logits less one constant a row.
    found = dict(zip(answer.indices[0].tolist(), answer.scores[0].tolist(), strict=True))
    if set(found) != set(indices[0].tolist()):
        raise WrongAnswer("other classes than the model's")
    gaps = np.array([found[index] for index in indices[0].tolist()]) - scores[0]
    if np.ptp(gaps) > TOLERANCE:
        raise WrongAnswer(f"scores are off by {np.ptp(gaps):.4f}")
