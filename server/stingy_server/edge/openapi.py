"""The parts of the OpenAPI document that FastAPI cannot infer: binary bodies and refusals."""

import re
from typing import Any

from pydantic import BaseModel

from stingy_server.codec.form_data import FIELD, FORM

IMAGE_TYPES = ("image/png", "image/jpeg")


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


def _error_responses(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Replace FastAPI's own form of errors, which the server never sends."""
    return {"default": {"model": model, "description": "The request was refused."}}


ERROR_RESPONSES = _error_responses(Refused)
OIP_ERROR_RESPONSES = _error_responses(OpenInferenceRefused)
TORCHSERVE_ERROR_RESPONSES = _error_responses(TorchServeRefused)


def request_body(path: str, *media_types: str) -> dict[str, Any]:
    """Describe the path's parameters and a body of one of these types for OpenAPI."""
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: file}}
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", path)
        ],
        "requestBody": {
            "required": True,
            "content": {
                media_type: {"schema": form if media_type == FORM else file}
                for media_type in media_types
            },
        },
    }
