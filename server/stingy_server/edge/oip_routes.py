"""The Open Inference Protocol v2 over REST: probes, metadata, inference."""

from functools import partial
from importlib.metadata import version as installed_version
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from stingy_protection import ScoreForm
from stingy_server.codec import oip
from stingy_server.codec.infer_pixels import read_large_json, read_pixels
from stingy_server.codec.oip_answers import Encoded, encode_answer
from stingy_server.edge.hot_path import Handler, Query, documented
from stingy_server.edge.model_list import list_versions, request_limits
from stingy_server.edge.openapi import ERROR_RESPONSES, request_body
from stingy_server.edge.tier_view import TierView, visible_form
from stingy_server.errors import DRAINING, INTERNAL, JSON, STORE_UNAVAILABLE, ServiceError
from stingy_server.models.endpoints import Endpoint
from stingy_server.service import Service

router = APIRouter(prefix="/v2", responses=ERROR_RESPONSES)

MODEL = "/models/{model}"
VERSION = "/models/{model}/versions/{version}"


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type=JSON)


@router.get("")
async def server_metadata() -> Response:
    return _json(
        {
            "name": "stingy",
            "version": installed_version("stingy"),
            "extensions": ["binary_tensor_data"],
        }
    )


@router.get("/health/live")
async def live() -> Response:
    return _json({"live": True})


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.draining:
        raise ServiceError(DRAINING)
    if service.watch.failed:  # the server gives no answer without the watch
        raise ServiceError(INTERNAL)
    if not service.database.health.check():
        raise ServiceError(STORE_UNAVAILABLE)
    return _json({"ready": True})


@router.get(f"{MODEL}/ready")
@router.get(f"{VERSION}/ready")
async def model_ready(request: Request, model: str, version: str | None = None) -> Response:
    service: Service = request.app.state.service
    endpoint = service.endpoint(request.state.record, model, version)
    ready = service.database.health.check() and not (service.draining or service.watch.failed)
    return _json({"name": endpoint.name, "ready": ready})


@router.get(MODEL)
@router.get(VERSION)
async def model_metadata(request: Request, model: str, version: str | None = None) -> Response:
    service: Service = request.app.state.service
    endpoint = service.endpoint(request.state.record, model, version)
    view = TierView.of(endpoint.policy, service.tier(request.state.record))
    versions = list_versions(service, endpoint.name)
    limits = request_limits(service, endpoint, request.state.record)
    return _json(_metadata(endpoint, view, versions=versions, limits=limits))


async def infer(query: Query) -> Encoded:
    """Classify a batch of images, in JSON or as a binary tensor."""
    service, record, endpoint = query.service, query.record, query.endpoint
    most = service.settings.max_request_images
    form = visible_form(endpoint.policy, query.tier)
    parse = partial(oip.parse_head, query.body, query.json_length, form=form, max_images=most)
    count = oip.count_large_json(query.body, query.json_length, max_images=most)
    heads: list[oip.InferHead] = []
    if count is None:
        heads.append(parse())
        count = heads[0].count
        read = partial(read_pixels, heads[0])
    else:
        read = partial(read_large_json, parse, count=count, keep=heads.append, turns=service.turns)
    read_images = partial(
        read,
        body=query.body,
        preprocessing=endpoint.manifest.preprocessing,
        pool=service.decoders,
        caller=record.caller,
        max_pixels=service.settings.max_pixels,
    )
    answer = await service.answer(record, endpoint, read_images, images=count, tier=query.tier)
    (head,) = heads
    return encode_answer(head, answer, model=endpoint.name, version=endpoint.manifest.version)


HOT_ROUTES: dict[str, Handler] = {f"/v2{MODEL}/infer": infer, f"/v2{VERSION}/infer": infer}
for path, handler in HOT_ROUTES.items():
    router.add_api_route(
        path.removeprefix("/v2"),
        documented,
        name=handler.__name__,
        description=handler.__doc__,
        methods=["POST"],
        openapi_extra=request_body(path, JSON, oip.BINARY),
    )


def _metadata(
    endpoint: Endpoint, view: TierView, *, versions: list[str], limits: dict[str, int]
) -> dict[str, Any]:
    policy, manifest = endpoint.policy, endpoint.manifest
    outputs: list[dict[str, Any]] = [
        {"name": "indices", "datatype": "INT64", "shape": [-1, view.support]}
    ]
    if view.form is not ScoreForm.NONE:
        outputs += [
            {"name": "scores", "datatype": "FP32", "shape": [-1, view.support]},
            {"name": "logits", "datatype": "FP32", "shape": [-1, policy.num_classes]},
        ]
    return {
        "name": endpoint.name,
        "versions": versions,
        "platform": "stingy",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": outputs,
        "parameters": {
            "version": manifest.version,
            "labels": manifest.classes,
            "num_classes": policy.num_classes,
            "policy": policy.name,
            "support": view.support,
            "scores": view.form,
            "decimals": view.decimals,
            "fingerprint": view.fingerprint,
            "image_size": manifest.preprocessing.size,
            **limits,
        },
    }
