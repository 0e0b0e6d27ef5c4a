"""The logic of both clients, without I/O. Each client runs these flows over its connections.

A flow is a generator. It yields a Call, receives the response (or httpx's error), and returns the
result.

Invariant: a request that may have been charged is never sent a second time.
"""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar
from urllib.parse import quote

import httpx
import numpy as np

from stingy_clients import oip
from stingy_clients.answers import (
    Answer,
    Float32,
    Int64,
    ModelInfo,
    ModelList,
    PredictResponse,
    ScoredClass,
    ServedModel,
    Usage,
)
from stingy_clients.errors import (
    BadImage,
    BadInput,
    ClientError,
    NotFound,
    Unavailable,
    UnexpectedAnswer,
)
from stingy_clients.images import (
    Batch,
    check_pixel_batch,
    encode_image,
    encode_images,
    split_batches,
)
from stingy_clients.replies import (
    LOST_CONNECTION,
    check_classes,
    error_from_failure,
    error_from_response,
    parse_body,
    wait_before_retry,
)

T = TypeVar("T")

_NAMED = 10  # models that an error names


@dataclass(frozen=True)
class Call:
    """An HTTP request, to be sent after `wait` seconds. `path` starts with a slash."""

    method: Literal["GET", "POST"]
    path: str
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0


Flow = Generator[Call, httpx.Response, T]


class Flows:
    """The flows of one client, with its cache of model metadata."""

    def __init__(self, *, retries: int) -> None:
        if retries < 0:
            raise BadInput(f"expected retries >= 0, got {retries}")
        self._retries = retries
        self._models: dict[tuple[str, str | None], ModelInfo] = {}
        self._only_model: str | None = None  # the one model of the server, once it is known

    def ready(self) -> Flow[bool]:
        try:
            response = yield Call("GET", "/v2/health/ready")
        except httpx.TransportError:
            return False
        if response.status_code not in (200, 503):
            raise error_from_response(response)
        return response.status_code == 200

    def usage(self) -> Flow[Usage]:
        response = yield from self._send(Call("GET", "/v1/usage"))
        return parse_body(Usage, response)

    def models(self) -> Flow[list[ServedModel]]:
        response = yield from self._send(Call("GET", "/v1/models"))
        return list(parse_body(ModelList, response).models)

    def model(self, name: str | None, *, version: str | None) -> Flow[ModelInfo]:
        if name is None:
            name = yield from self._find_only_model()
        if (name, version) not in self._models:
            response = yield from self._send(Call("GET", _model_path(name, version)))
            info = oip.decode_metadata(response.content, version=version)
            if info.name != name or version not in (None, info.version):
                raise UnexpectedAnswer(
                    "expected metadata of the requested model, got another model's"
                )
            self._models[name, version] = info
        return self._models[name, version]

    def predict(self, image: object, *, model: str | None, version: str | None) -> Flow[Answer]:
        item = encode_image(image)
        info = yield from self.model(model, version=version)
        if version is not None or not isinstance(item, bytes):
            batch = (item,) if isinstance(item, bytes) else item[np.newaxis]
            (answer,) = yield from self._request_answers(batch, info, version=version)
            return answer
        path = f"/v1/predict/{_quote_segment(info.name)}"
        response = yield from self._send(Call("POST", path, item))
        found = parse_body(PredictResponse, response)
        if found.model != info.name or len(found.answers) != 1:
            raise UnexpectedAnswer("expected one answer of the requested model, got others")
        info = yield from self._refresh_metadata(info, found.version)
        classes = found.answers[0].classes
        check_classes(classes, num_classes=info.num_classes, form=found.scores)
        form = found.scores or _unnamed_form(info, scored=classes[0].score is not None)
        return Answer(classes, info.num_classes, info.name, found.version, form)

    def predict_batch(
        self, images: object, *, model: str | None, version: str | None
    ) -> Flow[list[Answer]]:
        items = encode_images(images)
        info = yield from self.model(model, version=version)
        answered: list[Answer] = []
        for batch in split_batches(
            items, most=info.max_batch, pixels=info.max_pixels, nbytes=info.max_image_bytes
        ):
            parts = [batch]
            while parts:
                part = parts.pop()
                try:
                    answered += yield from self._request_answers(part, info, version=version)
                except ClientError as error:
                    if len(part) == 1 or not _is_too_large(error):
                        error.answered = answered
                        raise
                    # The server, or a proxy before it, takes less than the metadata says.
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
        return answered

    def predict_tensor(
        self, images: object, *, model: str | None, version: str | None
    ) -> Flow[tuple[Int64, Float32 | None]]:
        batch = check_pixel_batch(images)
        info = yield from self.model(model, version=version)
        most = info.max_arrays(*batch.shape[1:3])
        if not 1 <= len(batch) <= most:
            raise BadInput(f"expected 1 to {most} images, got {len(batch)}")
        tensors, _ = yield from self._infer(batch, info, version=version)
        return tensors.indices, tensors.scores

    def _find_only_model(self) -> Flow[str]:
        """Return the name of the one model that the server serves."""
        if self._only_model is None:
            names = [served.name for served in (yield from self.models())]
            if len(names) != 1:
                named = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
                listed = f"{len(names)}: {named}" if names else "no model"
                raise BadInput(
                    f"expected the name of a model, got none; the server serves {listed}"
                )
            self._only_model = names[0]
        return self._only_model

    def _request_answers(
        self, batch: Batch, info: ModelInfo, *, version: str | None
    ) -> Flow[list[Answer]]:
        tensors, info = yield from self._infer(batch, info, version=version)
        form = tensors.form or _unnamed_form(info, scored=tensors.scores is not None)
        indices = tensors.indices.tolist()
        no_scores: list[list[float | None]] = [[None] * len(row) for row in indices]
        scores = no_scores
        if tensors.scores is not None:
            # FP32 stores -0.812 as -0.81199998. Rounding to the grid gives the JSON's numbers.
            scores = tensors.scores.astype(np.float64).round(info.decimals).tolist()
        rows = [
            tuple(
                ScoredClass(index=index, label=info.labels[index], score=score)
                for index, score in zip(*row, strict=True)
            )
            for row in zip(indices, scores, strict=True)
        ]
        return [Answer(row, info.num_classes, info.name, tensors.version, form) for row in rows]

    def _infer(
        self, batch: Batch, info: ModelInfo, *, version: str | None
    ) -> Flow[tuple[oip.Tensors, ModelInfo]]:
        headers, content = oip.encode_request(batch)
        path = f"{_model_path(info.name, version)}/infer"
        response = yield from self._send(Call("POST", path, content, headers))
        length = response.headers.get(oip.LENGTH_HEADER)
        tensors = oip.decode_response(response.content, length, model=info.name, count=len(batch))
        if version is None:
            info = yield from self._refresh_metadata(info, tensors.version)
        elif tensors.version != version:
            raise UnexpectedAnswer("expected an answer of the requested version, got another")
        oip.check_values(tensors, num_classes=info.num_classes)
        return tensors, info

    def _refresh_metadata(self, info: ModelInfo, version: str) -> Flow[ModelInfo]:
        """Fetch the metadata anew if an answer shows that the model's version changed."""
        if info.version == version:
            return info
        self._models.pop((info.name, None), None)
        return (yield from self.model(info.name, version=None))

    def _send(self, call: Call) -> Flow[httpx.Response]:
        """Send `call` until the status is 200, with as many retries as are allowed and safe."""
        attempt = 0
        while True:
            error: ClientError
            try:
                response = yield call
            except httpx.RequestError as failure:
                error = error_from_failure(failure, method=call.method)
                error.__cause__ = failure
                is_retryable = call.method == "GET" and isinstance(failure, LOST_CONNECTION)
            else:
                if response.status_code == 200:
                    return response
                error = error_from_response(response)
                is_retryable = isinstance(error, Unavailable) and (
                    error.status == 503 or error.retry_after is not None
                )
            if isinstance(error, NotFound):
                self._only_model = None
            if not is_retryable or attempt >= self._retries:
                raise error
            call = replace(call, wait=wait_before_retry(error, attempt))
            attempt += 1


def _is_too_large(error: ClientError) -> bool:
    """Check that a request was refused for its size, which is never charged."""
    return isinstance(error, BadImage) and error.status == 413


def _unnamed_form(info: ModelInfo, *, scored: bool) -> str:
    """Return the form of answers that do not name it."""
    return info.scores if scored else "none"


def _model_path(name: str, version: str | None) -> str:
    path = f"/v2/models/{_quote_segment(name)}"
    return path if version is None else f"{path}/versions/{_quote_segment(version)}"


def _quote_segment(name: str) -> str:
    return quote(name, safe="")
