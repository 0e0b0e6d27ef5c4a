"""The parts of the OpenAPI document that FastAPI cannot infer: binary bodies and refusals."""

import re
from typing import Any

from pydantic import BaseModel

IMAGE_TYPES = ("image/png", "image/jpeg")


class Reason(BaseModel):
    """The reason of a refusal: its code, its fixed sentence and the request's id."""

    code: str
    message: str
    request_id: str


class Refused(BaseModel):
    """The body of every refusal."""

    error: Reason


# Replaces FastAPI's own form of errors, which the server never sends.
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"model": Refused, "description": "The request was refused."}
}


def request_body(path: str, *media_types: str) -> dict[str, Any]:
    """Describe the path's parameters and a body of one of these types for OpenAPI."""
    schema = {"type": "string", "format": "binary"}
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", path)
        ],
        "requestBody": {
            "required": True,
            "content": {media_type: {"schema": schema} for media_type in media_types},
        },
    }
