"""Suspects: models that are questioned about images. A suspect answers with a class or a failure.

Invariant: a reply is bounded in size and time, and no redirect is followed. The key goes to the
suspect's own address alone.
"""

import base64
import hashlib
import io
import json
import re
import time
from pathlib import Path
from typing import Protocol

import httpx
import numpy as np
from numpy.typing import NDArray

from stingy_attacker_eval.errors import SuspectError
from stingy_attacker_eval.files import read_npz
from stingy_attacker_eval.ownership.template import Template
from stingy_clients.documents.exhibit import Item

MOST_REPLY_BYTES = 2**20
_TRIES = 3
_LONGEST_WAIT = 30.0
_CLASSIFICATION = re.compile(r"^[-+.\deE]+:(\d+)(?::|$)")  # Triton's "SCORE:INDEX:LABEL"


class Suspect(Protocol):
    """A model that may have been trained on marked answers.

    name: of the report. It has no key.
    """

    name: str

    def answer(self, item: Item, png: bytes) -> object:
        """Return the class of one image as the suspect names it; None if it has no answer.

        A list of numbers is the scores of all classes, another list the classes, best first.

        Raises SuspectError if the suspect fails.
        """
        ...


class HttpSuspect:
    """A model behind plain HTTP, as a template describes it."""

    def __init__(self, url: str, template: Template, *, key: str | None, timeout: float) -> None:
        self.name = _public_url(url)
        self._url = url
        self._template = template
        self._headers = template.fill_headers(key)
        self._client = _Client(timeout)

    def answer(self, item: Item, png: bytes) -> object:
        template = self._template
        if template.send == "form":
            files = {template.field: ("image.png", png, "image/png")}
            reply = self._client.post(self._url, headers=self._headers, files=files)
        elif template.send == "json":
            headers = {"Content-Type": "application/json", **self._headers}
            reply = self._client.post(self._url, headers=headers, content=template.fill_body(png))
        else:
            headers = {"Content-Type": "image/png", **self._headers}
            reply = self._client.post(self._url, headers=headers, content=png)
        return template.find_label(reply)


class OipSuspect:
    """A model behind the Open Inference Protocol, over REST with JSON.

    Its input must be image files (BYTES) or pixels (UINT8, `[B, H, W, 3]` or `[H, W, 3]`). Its
    first output is classes, best first, or the scores of all classes.
    """

    def __init__(self, url: str, *, model: str, key: str | None, timeout: float) -> None:
        self._url = f"{url.rstrip('/')}/v2/models/{model}"
        self.name = _public_url(self._url)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._client = _Client(timeout)
        self._input: tuple[str, str, int] | None = None

    def answer(self, item: Item, png: bytes) -> object:
        name, datatype, rank = self._input or self._describe()
        self._input = name, datatype, rank
        if datatype == "BYTES":
            shape, data = [1], [base64.b64encode(png).decode()]
            tensor = {"name": name, "datatype": datatype, "shape": shape, "data": data}
        else:
            pixels = _decode(png)
            shape = list(pixels.shape) if rank == 3 else [1, *pixels.shape]
            tensor = {
                "name": name,
                "datatype": datatype,
                "shape": shape,
                "data": pixels.ravel().tolist(),
            }
        reply = self._client.post(
            f"{self._url}/infer",
            headers={"Content-Type": "application/json", **self._headers},
            content=json.dumps({"inputs": [tensor]}).encode(),
        )
        return _first_output(reply)

    def _describe(self) -> tuple[str, str, int]:
        document = self._client.get(self._url, headers=self._headers)
        inputs = document.get("inputs") if isinstance(document, dict) else None
        first = inputs[0] if isinstance(inputs, list) and inputs else None
        if not isinstance(first, dict) or not isinstance(first.get("shape"), list):
            raise SuspectError(
                "expected the metadata of an Open Inference model, got another reply"
            )
        datatype, rank = str(first.get("datatype")), len(first["shape"])
        if datatype not in ("BYTES", "UINT8"):
            raise SuspectError(
                f"expected a model that takes images as BYTES or UINT8, got {datatype[:20]}: its "
                "preprocessing is unknown, so write a template, or a file of predictions"
            )
        return str(first.get("name")), datatype, rank


class PredictionFile:
    """The predictions of a model for the images of an exhibit, in a file.

    CSV has the columns `id` and `label`. JSON has one object from ids to labels. An npz file has
    the arrays `ids` and `labels`, or `ids` and `scores` `[n, classes]`. An id is the name of an
    image file without `.png`, a label a class's name or index.
    """

    def __init__(self, path: Path) -> None:
        reader = {".csv": _read_csv, ".json": _read_json, ".npz": _read_npz}.get(path.suffix)
        if reader is None:
            raise SuspectError(
                f"expected a suspect's URL or a .csv, .json or .npz file, got {path.name}"
            )
        try:
            # With the digest, answers kept from another state of the file are never mixed in.
            self.name = f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
            self._labels = reader(path)
        except FileNotFoundError:
            raise SuspectError(f"expected a file of predictions, got none at {path}") from None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise SuspectError(f"expected predictions by id in {path}: {error}") from None

    def answer(self, item: Item, png: bytes) -> object:
        return self._labels.get(item.id)


class _Client:
    """An HTTP client with a deadline for each reply, which also ends a reply that trickles."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._http = httpx.Client(timeout=timeout, follow_redirects=False)

    def get(self, url: str, *, headers: dict[str, str]) -> object:
        return self._send(self._http.build_request("GET", url, headers=headers))

    def post(self, url: str, *, headers: dict[str, str], **body: object) -> object:
        return self._send(self._http.build_request("POST", url, headers=headers, **body))  # type: ignore[arg-type]

    def _send(self, request: httpx.Request) -> object:
        for attempt in range(1, _TRIES + 1):
            status, wait, content = self._try_once(request)
            if status not in (429, 503) or attempt == _TRIES:
                break
            time.sleep(wait)
        if status != 200:
            raise SuspectError(f"expected the status 200 from the suspect, got {status}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise SuspectError("expected JSON from the suspect, got another reply") from None

    def _try_once(self, request: httpx.Request) -> tuple[int, float, bytes]:
        """Return the status, the seconds to wait before another try, and the body."""
        end = time.monotonic() + self._timeout
        content = bytearray()
        try:
            response = self._http.send(request, stream=True)
            try:
                for part in response.iter_bytes():
                    content += part
                    if len(content) > MOST_REPLY_BYTES:
                        raise SuspectError(
                            f"expected a reply of at most {MOST_REPLY_BYTES} bytes, got more"
                        )
                    if time.monotonic() > end:
                        raise httpx.ReadTimeout("deadline")
            finally:
                response.close()
        except httpx.TimeoutException:
            raise SuspectError(
                f"expected a reply within {self._timeout:g} seconds, got none: raise --timeout"
            ) from None
        except httpx.HTTPError as error:
            raise SuspectError(
                f"expected a reply from the suspect, got {type(error).__name__}"
            ) from None
        text = response.headers.get("Retry-After", "1")
        wait = float(text) if text.isascii() and text.isdigit() else 1.0
        return response.status_code, min(wait, _LONGEST_WAIT), bytes(content)


def _public_url(url: str) -> str:
    """Return a URL without user, password and query, which may have keys.

    Raises SuspectError if it is no URL of http or https.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise SuspectError("expected a URL, got another text") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SuspectError("expected a URL that begins with http:// or https://, got another")
    return str(parsed.copy_with(username="", password="", query=None, fragment=None))


def _first_output(reply: object) -> object:
    """Return the first output for one image: a class, names best first, or all scores."""
    outputs = reply.get("outputs") if isinstance(reply, dict) else None
    first = outputs[0] if isinstance(outputs, list) and outputs else None
    data = first.get("data") if isinstance(first, dict) else None
    while isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    if not isinstance(first, dict) or not isinstance(data, list) or not data:
        raise SuspectError("expected an output with data in JSON, got another reply")
    if str(first.get("datatype")).startswith(("FP", "BF")):
        return data
    if isinstance(data[0], str) and (found := _CLASSIFICATION.match(data[0])):
        return int(found[1])
    return data if isinstance(data[0], str) else data[0]


def _decode(png: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def _read_csv(path: Path) -> dict[str, object]:
    import csv

    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if not {"id", "label"} <= set(rows.fieldnames or ()):
            raise ValueError("expected the columns id and label, got others")
        pairs = [(row["id"], row["label"]) for row in rows]
    return _unique(pairs)


def _read_json(path: Path) -> dict[str, object]:
    document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    if not isinstance(document, dict):
        raise ValueError("expected one object from ids to labels, got another document")
    return document


def _read_npz(path: Path) -> dict[str, object]:
    arrays = read_npz(path)
    ids, labels = arrays.get("ids"), arrays.get("labels", arrays.get("scores"))
    if ids is None or labels is None or len(ids) != len(labels):
        raise ValueError("expected the arrays ids and labels (or scores) of one length, got others")
    return _unique([(str(name), label.tolist()) for name, label in zip(ids, labels, strict=True)])


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("expected each id once, got one twice")
    return found
