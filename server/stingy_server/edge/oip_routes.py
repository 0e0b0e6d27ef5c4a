"""The Open Inference Protocol v2 over REST: probes, metadata, statistics, inference."""

from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from stingy_protection import ScoreForm
from stingy_server.codec import oip
from stingy_server.codec.image_files import is_image
from stingy_server.codec.oip_answers import Encoded, encode_answer
from stingy_server.codec.wrong_forms import explain_request
from stingy_server.edge import descriptions
from stingy_server.edge.documents.open_inference import (
    IndexRequest,
    ModelConfig,
    ModelIndexEntry,
    ModelMetadata,
    ModelReady,
    ModelStatistics,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from stingy_server.edge.hot_path import Handler, Query, add_to_document
from stingy_server.edge.inference import infer_images
from stingy_server.edge.openapi import (
    INFERENCE,
    OpenInferenceRefused,
    answers,
    optional_body,
    refusals,
)
from stingy_server.edge.tier_view import visible_form
from stingy_server.errors import BAD_REQUEST, JSON, TOO_LARGE, ServiceError
from stingy_server.models.endpoints import Endpoint
from stingy_server.service import Service

router = APIRouter(
    prefix="/v2", responses=refusals(OpenInferenceRefused), tags=["Open Inference Protocol"]
)

MODEL = "/models/{model}"
VERSION = "/models/{model}/versions/{version}"
REPOSITORY_INDEX = "/v2/repository/index"
MAX_INDEX_BYTES = 4096  # of the request for it


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type=JSON)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _endpoint(request: Request, model: str, version: str | None) -> Endpoint:
    return _service(request).endpoint(request.state.record, model, version)


@router.get("", responses=answers(ServerMetadata))
@router.get("/", responses=answers(ServerMetadata))
async def server_metadata() -> Response:
    """Return the name, the version and the extensions of the server."""
    return _json(descriptions.server_metadata())


@router.get("/health/live", responses=answers(ServerLive))
@router.head("/health/live", response_class=Response)
async def live() -> Response:
    """Say that the server runs. Needs no key."""
    return _json({"live": True})


@router.get("/health/ready", responses=answers(ServerReady))
@router.head("/health/ready", response_class=Response)
async def ready(request: Request) -> Response:
    """Say whether the server answers queries. Needs no key."""
    if refusal := descriptions.server_unready(_service(request)):
        raise ServiceError(refusal)
    return _json({"ready": True})


@router.get(f"{MODEL}/ready", responses=answers(ModelReady))
@router.head(f"{MODEL}/ready", response_class=Response)
async def model_ready(request: Request, model: str) -> Response:
    """Say whether a model answers queries."""
    return await _readiness(request, model, None)


@router.get(f"{VERSION}/ready", responses=answers(ModelReady))
@router.head(f"{VERSION}/ready", response_class=Response)
async def version_ready(request: Request, model: str, version: str) -> Response:
    """Say whether a version of a model answers queries."""
    return await _readiness(request, model, version)


async def _readiness(request: Request, model: str, version: str | None) -> Response:
    endpoint = _endpoint(request, model, version)
    if refusal := await descriptions.model_unready(_service(request), endpoint):
        raise ServiceError(refusal)
    return _json({"name": endpoint.name, "ready": True})


@router.get(f"{MODEL}/stats", responses=answers(ModelStatistics))
async def model_statistics(request: Request, model: str) -> Response:
    """Return the statistics of the key's own requests to a model."""
    return _statistics(request, model, None)


@router.get(f"{VERSION}/stats", responses=answers(ModelStatistics))
async def version_statistics(request: Request, model: str, version: str) -> Response:
    """Return the statistics of the key's own requests to a version of a model."""
    return _statistics(request, model, version)


def _statistics(request: Request, model: str | None, version: str | None) -> Response:
    record = request.state.record
    return _json(descriptions.model_statistics(_service(request), record, model, version))


@router.get(f"{MODEL}/config", responses=answers(ModelConfig))
async def model_config(request: Request, model: str) -> Response:
    """Return the configuration of a model, in Triton's form."""
    return _configuration(request, model, None)


@router.get(f"{VERSION}/config", responses=answers(ModelConfig))
async def version_config(request: Request, model: str, version: str) -> Response:
    """Return the configuration of a version of a model, in Triton's form."""
    return _configuration(request, model, version)


def _configuration(request: Request, model: str, version: str | None) -> Response:
    endpoint = _endpoint(request, model, version)
    return _json(descriptions.model_config(_service(request), request.state.record, endpoint))


@router.get(MODEL, responses=answers(ModelMetadata | ModelStatistics))
async def model_metadata(request: Request, model: str) -> Response:
    """Return the metadata of a model, or the statistics of all, if the model is `stats`."""
    service = _service(request)
    served = {endpoint.name for endpoint in service.endpoints(request.state.record)}
    if model == "stats" and model not in served:
        return _statistics(request, None, None)
    return _metadata(request, model, None)


@router.get(VERSION, responses=answers(ModelMetadata))
async def version_metadata(request: Request, model: str, version: str) -> Response:
    """Return the metadata of a version of a model."""
    return _metadata(request, model, version)


def _metadata(request: Request, model: str, version: str | None) -> Response:
    endpoint = _endpoint(request, model, version)
    return _json(descriptions.model_metadata(_service(request), request.state.record, endpoint))


@router.post(
    REPOSITORY_INDEX.removeprefix("/v2"),
    responses=answers(list[ModelIndexEntry]),
    openapi_extra=optional_body(IndexRequest),
)
async def repository_index(request: Request) -> Response:
    """List the models; those that are ready alone, if the body says {"ready": true}."""
    body = await request.body()
    if len(body) > MAX_INDEX_BYTES:
        raise ServiceError(TOO_LARGE, limit=MAX_INDEX_BYTES)
    try:
        wanted = IndexRequest.model_validate_json(body or b"{}", strict=True)
    except ValidationError:
        raise ServiceError(BAD_REQUEST) from None
    ready_only = bool(wanted.ready)
    return _json(
        await descriptions.repository_index(
            _service(request), request.state.record, ready_only=ready_only
        )
    )


async def infer(query: Query) -> Encoded:
    """Classify a batch of images, in JSON or as a binary tensor."""
    service, record, endpoint = query.service, query.record, query.endpoint
    most = service.settings.max_request_images
    form = visible_form(endpoint.policy, query.tier)
    parse = partial(_parse_head, query, form=form, max_images=most)
    try:
        count = oip.count_large_json(query.body, query.json_length, max_images=most)
    except ServiceError as error:
        raise _explain(query.body, error) from None
    head, answer = await infer_images(
        service, record, endpoint, parse, query.body, count=count, tier=query.tier
    )
    manifest = endpoint.manifest
    return encode_answer(
        head, answer, model=endpoint.name, version=manifest.version, labels=manifest.classes
    )


def _parse_head(query: Query, *, form: ScoreForm, max_images: int) -> oip.InferHead:
    try:
        return oip.parse_head(query.body, query.json_length, form=form, max_images=max_images)
    except ServiceError as error:
        raise _explain(query.body, error) from None


def _explain(body: bytes, error: ServiceError) -> ServiceError:
    """Return the error of a body that is perhaps no request of the protocol at all."""
    return ServiceError(explain_request(body, error.refusal, image=is_image(body)))


HOT_ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", f"/v2{MODEL}/infer"): infer,
    ("POST", f"/v2{VERSION}/infer"): infer,
}
add_to_document(router, HOT_ROUTES, JSON, oip.BINARY, responses=INFERENCE)
