"""The plain routes: one image in and its answer out, the models, and the use of a budget."""

from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from stingy_clients import ModelList, PredictResponse, Usage
from stingy_protection import SparseLogits
from stingy_server.codec.images import decode
from stingy_server.codec.oip_answers import Encoded, answer_rows
from stingy_server.edge.hot_path import Handler, Query, add_to_document
from stingy_server.edge.model_list import list_models
from stingy_server.edge.openapi import IMAGE_TYPES, Refused, answers, refusals
from stingy_server.edge.usage_view import usage_document
from stingy_server.errors import JSON
from stingy_server.models.endpoints import Endpoint
from stingy_server.queries.answering import answer_batch
from stingy_server.service import Service
from stingy_server.store.key import Key

router = APIRouter(responses=refusals(Refused), tags=["Stingy"])


async def predict(query: Query) -> Encoded:
    """Classify one JPEG, PNG or WebP, sent as the body."""
    service, record, endpoint = query.service, query.record, query.endpoint
    decode_body = partial(
        decode,
        [query.body],
        endpoint.manifest.preprocessing,
        pool=service.decoders,
        caller=record.caller,
        max_pixels=service.settings.max_pixels,
    )
    answer = await answer_batch(service, record, endpoint, decode_body, images=1, tier=query.tier)
    return Encoded(orjson.dumps(_document(endpoint, answer)), None)


@router.get("/v1/models", responses=answers(ModelList))
async def models(request: Request) -> Response:
    """List the models that are served, as the caller's key gets them."""
    service: Service = request.app.state.service
    document = {"models": list_models(service, request.state.record)}
    return Response(orjson.dumps(document), media_type=JSON)


@router.get("/v1/usage", responses=answers(Usage))
async def usage(request: Request) -> Response:
    """Return the budgets of the caller's key, and the images charged to them."""
    service: Service = request.app.state.service
    key: Key = request.state.record.key
    budget, model_budgets = await service.executor.run(
        lambda: (service.keys.budget(key), service.keys.model_budgets(key))
    )
    return Response(orjson.dumps(usage_document(key, budget, model_budgets)), media_type=JSON)


HOT_ROUTES: dict[tuple[str, str], Handler] = {("POST", "/v1/predict/{model}"): predict}
add_to_document(router, HOT_ROUTES, *IMAGE_TYPES, responses=answers(PredictResponse))


def _document(endpoint: Endpoint, answer: SparseLogits) -> dict[str, Any]:
    return {
        "model": endpoint.name,
        "version": endpoint.manifest.version,
        "scores": answer.form,
        "answers": answer_rows(answer, endpoint.manifest.classes),
    }
