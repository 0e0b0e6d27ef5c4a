"""Requests to an application, and what is read of its responses."""

from typing import Any

import httpx

from serving import random_images
from stingy_server.errors import ErrorForm, error_form

IMAGES = random_images(16)


def tensor(images: Any = IMAGES, **rest: Any) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": "image",
                "datatype": "UINT8",
                "shape": images.shape,
                "data": images.ravel().tolist(),
            }
        ],
        **rest,
    }


async def infer(client: httpx.AsyncClient, images: Any, model: str = "digits") -> httpx.Response:
    return await client.post(f"/v2/models/{model}/infer", json=tensor(images))


async def used(client: httpx.AsyncClient) -> int:
    return int((await client.get("/v1/usage")).json()["used"])


def code(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the code of a refusal, after a check of its form."""
    name = response.headers["X-Error-Code"]
    document, form = response.json(), error_form(response.request.url.path)
    if form is ErrorForm.STINGY:
        assert set(document["error"]) == {"code", "message", "request_id"}
        assert document["error"]["request_id"] == response.headers["X-Request-Id"]
        assert document["error"]["code"] == name
    elif form is ErrorForm.OPEN_INFERENCE:
        assert set(document) == {"error"}
        assert document["error"].startswith("Expected ")
    else:
        assert set(document) == {"code", "type", "message"}
        assert (document["code"], document["type"]) == (response.status_code, name)
    return response.status_code, name


def outputs(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {output["name"]: output for output in response.json()["outputs"]}
