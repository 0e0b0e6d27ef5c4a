"""What the OpenAPI document says that FastAPI cannot see: bodies of bytes, and our refusals."""

import re
from typing import Any

from pydantic import BaseModel

IMAGE_TYPES = ("image/png", "image/jpeg")


class Reason(BaseModel):
    """Why a request was refused."""

    code: str
    message: str
    request_id: str


class Refused(BaseModel):
    """The one body of every answer that is none."""

    error: Reason


# In place of FastAPI's own form of errors, which is never sent.
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"model": Refused, "description": "A refusal."}
}


def request_body(path: str, *media_types: str) -> dict[str, Any]:
    """The path's parameters and a body of one of these types, in OpenAPI's words."""
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
