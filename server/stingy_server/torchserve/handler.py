"""The handler of TorchServe's workers. It answers images through the gate and nothing else.

Every failure of a request is answered with a fixed sentence alone.
"""

import asyncio
import logging
from pathlib import Path
from typing import Any

import orjson
import torch
from starlette.responses import Response

from stingy_protection import NoisyPolicy, ScoreForm
from stingy_server.codec import oip
from stingy_server.codec.decode_pool import QUEUED_REQUESTS, DecodePool
from stingy_server.codec.image_files import is_image
from stingy_server.codec.infer_pixels import read_pixels
from stingy_server.codec.oip_answers import encode_answer
from stingy_server.errors import (
    BAD_REQUEST,
    NOT_FOUND,
    ConfigurationError,
    ServiceError,
    error_response,
)
from stingy_server.identity import FINGERPRINT_HEADER, model_fingerprint
from stingy_server.inference.engine import refusal_of
from stingy_server.models.endpoints import start_endpoints
from stingy_server.models.loading import load_bundles
from stingy_server.settings import ModelSettings, Settings

log = logging.getLogger("stingy")

# The headers by which TorchServe marks requests to its routes /explanations and describe. The
# second belongs to its management API.
OTHER_ROUTES = ("explain", "describe")
CALLER = "torchserve"  # TorchServe checks its keys itself and does not pass them on


class Handler:
    """TorchServe's interface: it calls `initialize` once in a worker, and `handle` for a batch."""

    def initialize(self, context: Any) -> None:
        """Load the archive's bundle as a server would.

        Raises:
            ConfigurationError: if the bundle cannot be served. The worker then answers nothing.
        """
        properties = context.system_properties
        folder = Path(properties["model_dir"])
        on_gpu = torch.cuda.is_available() and properties.get("gpu_id") is not None
        if on_gpu:
            torch.cuda.set_device(int(properties["gpu_id"]))
        self._settings = Settings(
            models=(ModelSettings(bundle=folder),),
            device="cuda" if on_gpu else "cpu",
            allow_open=True,  # the operator who made the archive has decided this
            **(context.model_yaml_config or {}).get("stingy", {}),
        )
        models, faults = load_bundles(self._settings)
        if any(isinstance(model.policy, NoisyPolicy) for model in models):
            faults.append("expected a policy without keyed noise: a worker has no secret")
        if faults:
            raise ConfigurationError(faults)
        endpoints, faults = start_endpoints(models, self._settings, secret=b"")
        if faults:
            raise ConfigurationError(faults)
        (self._endpoint,) = endpoints
        self._fingerprint = model_fingerprint(self._endpoint.manifest, self._endpoint.policy)
        self._decoders = DecodePool(capacity=QUEUED_REQUESTS * self._settings.max_pixels)
        self._loop = asyncio.new_event_loop()

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer the requests of a batch. Each is answered or fails on its own."""

        async def answer_all() -> list[bytes]:
            replies = (self._reply(row, context, index) for index, row in enumerate(data))
            return list(await asyncio.gather(*replies))

        return self._loop.run_until_complete(answer_all())

    async def _reply(self, row: dict[str, Any], context: Any, index: int) -> bytes:
        headers = {
            name.lower(): value for name, value in context.get_all_request_header(index).items()
        }
        try:
            response = await self._answer(row, headers)
        except ServiceError as error:
            response = error_response(error.refusal, context.get_request_id(index))
        # Logged without its text, because a network's error may quote its input.
        except Exception as error:  # noqa: BLE001
            log.error("no answer: %s", type(error).__name__)
            response = error_response(refusal_of(error), context.get_request_id(index))
        else:
            context.set_response_header(index, FINGERPRINT_HEADER, self._fingerprint)
        context.set_response_status(code=response.status_code, idx=index)
        # The request came by gRPC. Without this header a stream never ends, and TorchServe loses
        # the worker. With it, an answer by HTTP would not end.
        if not headers.keys() & set(OTHER_ROUTES):
            context.set_response_header(index, "ts_stream_next", "false")
        for name in ("content-type", oip.HEADER_LENGTH):
            if name in response.headers:
                context.set_response_header(index, name, response.headers[name])
        return bytes(response.body)

    async def _answer(self, row: dict[str, Any], headers: dict[str, Any]) -> Response:
        # TorchServe sets "False" for requests to /predictions.
        if any(headers.get(route, "False") != "False" for route in OTHER_ROUTES):
            raise ServiceError(NOT_FOUND)
        endpoint = self._endpoint
        body = row.get("body", row.get("data"))
        if isinstance(body, dict):  # TorchServe parses JSON by default
            body = orjson.dumps(body)
        if not isinstance(body, bytes | bytearray):
            raise ServiceError(BAD_REQUEST)
        body = bytes(body)
        form = endpoint.policy.scores
        if is_image(body):
            head, body = _file_query(body, form=form)
        else:
            head = oip.parse_head(
                body,
                headers.get(oip.HEADER_LENGTH.lower()),
                form=form,
                max_images=self._settings.max_request_images,
            )
        pixels = await read_pixels(
            head,
            body,
            endpoint.manifest.preprocessing,
            pool=self._decoders,
            caller=CALLER,
            max_pixels=self._settings.max_pixels,
        )
        answer, _ = await endpoint.engine.predict(pixels, caller=CALLER)
        manifest = endpoint.manifest
        encoded = encode_answer(
            head, answer, model=endpoint.name, version=manifest.version, labels=manifest.classes
        )
        headers_sent = {name.decode(): value.decode() for name, value in encoded.headers}
        return Response(encoded.body, headers=headers_sent)


def _file_query(body: bytes, *, form: ScoreForm) -> tuple[oip.InferHead, bytes]:
    """Return an image file as a query for all outputs of the policy, in JSON."""
    outputs = ["indices"] if form is ScoreForm.NONE else ["indices", "scores"]
    head = oip.InferHead(
        id=None,
        count=1,
        outputs=tuple((name, False) for name in outputs),
        length=0,
        tail=4 + len(body),
        datatype="BYTES",
        shape=(1,),
    )
    return head, len(body).to_bytes(4, "little") + body
