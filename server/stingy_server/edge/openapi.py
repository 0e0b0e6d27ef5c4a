"""The parts of the OpenAPI document that FastAPI cannot infer: bodies, answers, refusals, keys.

The models describe documents that handlers write themselves, so no answer is validated by them.
Tests compare them with the answers of a running server.
"""

import re
from collections.abc import Container
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from stingy_server.codec.form_data import FIELD, FORM
from stingy_server.codec.oip import BINARY, HEADER_LENGTH
from stingy_server.edge.documents.open_inference import IndexRequest, InferRequest, InferResponse
from stingy_server.errors import ERROR_CODE, JSON

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
BEARER = "key"  # the name of the security scheme
DESCRIPTION = """\
Every route needs `Authorization: Bearer KEY`, except the three probes. A refusal has the form of
its protocol, and its code in the header `X-Error-Code`. With `cors_origins` the server answers the
preflights (`OPTIONS`) of browsers, without a key."""
_REFERENCE = "#/components/schemas/{model}"
_Responses = dict[int | str, dict[str, Any]]


class Reason(BaseModel):
    """The reason of a refusal: its code, its fixed sentence and the request's id."""

    code: str
    message: str
    request_id: str


class Refused(BaseModel):
    """The body of a refusal."""

    error: Reason


class OpenInferenceRefused(BaseModel):
    """The body of a refusal in the Open Inference Protocol: the fixed sentence."""

    error: str


class TorchServeRefused(BaseModel):
    """The body of a refusal as TorchServe gives it: the status, our code, the fixed sentence."""

    code: int
    type: str
    message: str


class PingStatus(BaseModel):
    """The answer of TorchServe's probe."""

    status: Literal["Healthy", "Unhealthy"]


def answers(model: Any, description: str = "The answer.") -> _Responses:
    """Describe the answer of a route, a document of this model."""
    return {200: {"model": model, "description": description}}


def refusals(model: type[BaseModel]) -> _Responses:
    """Replace FastAPI's own form of errors, which the server never sends."""
    return {"default": {"model": model, "description": "The request was refused."}}


PROBABILITIES = answers(
    dict[str, Annotated[float, Field(ge=0, le=1)]],
    "The probability of each label that leaves, best first.",
)
PING = answers(PingStatus) | {
    status: {"model": PingStatus, "description": "The server is not ready."}
    for status in (500, 503)
}
INFERENCE: _Responses = answers(InferResponse, "The answer, in JSON or with binary tensors.")
INFERENCE[200]["content"] = {BINARY: {"schema": {"type": "string", "format": "binary"}}}
INFERENCE[200]["headers"] = {
    HEADER_LENGTH: {
        "description": "The bytes of the JSON, if binary tensors follow it.",
        "schema": {"type": "integer"},
    }
}


def optional_body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a JSON body of this model that may be absent. `complete` defines the model."""
    reference = _REFERENCE.format(model=model.__name__)
    return {"requestBody": {"content": {JSON: {"schema": {"$ref": reference}}}}}


def request_body(path: str, *media_types: str) -> dict[str, Any]:
    """Describe the path's parameters and a body of one of these types for OpenAPI."""
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: file}}
    infer = {"$ref": _REFERENCE.format(model=InferRequest.__name__)}
    schemas = {FORM: form, JSON: infer}
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", path)
        ],
        "requestBody": {
            "required": True,
            "content": {each: {"schema": schemas.get(each, file)} for each in media_types},
        },
    }


def complete(document: dict[str, Any], *, without_key: Container[str]) -> None:
    """Add the bearer scheme, the models of requests and the headers to FastAPI's document.

    Args:
        document: is changed. The answer to a HEAD request loses its body.
        without_key: the paths that need no key.
    """
    _, models = models_json_schema(
        [(InferRequest, "validation"), (IndexRequest, "validation")], ref_template=_REFERENCE
    )
    components = document["components"]
    components["schemas"] |= models["$defs"]
    components["securitySchemes"] = {
        BEARER: {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, or a token of the identity provider.",
        }
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["security"] = [] if path in without_key else [{BEARER: []}]
            for status, response in operation["responses"].items():
                if method == "head":
                    response.pop("content", None)
                response.setdefault("headers", {}).update(_headers(refused=status == "default"))


def _headers(*, refused: bool) -> dict[str, Any]:
    described = {"X-Request-Id": ("string", "The id of the request in ledger and log.")}
    if refused:
        described[ERROR_CODE] = ("string", "The code of the refusal.")
        described["Retry-After"] = ("integer", "Seconds to wait, if a later try may succeed.")
    return {
        name: {"description": text, "schema": {"type": kind}}
        for name, (kind, text) in described.items()
    }
