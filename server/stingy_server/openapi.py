"""What the OpenAPI document says of requests whose bodies are bytes, which FastAPI cannot see."""

import re
from typing import Any

IMAGE_TYPES = ("image/png", "image/jpeg")


def asks(path: str, *media_types: str) -> dict[str, Any]:
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
