"""Requests to an application, and what is read of its responses."""

from typing import Any

import httpx

from serving import random_images

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
    error = response.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["request_id"] == response.headers["X-Request-Id"]
    return response.status_code, error["code"]


def outputs(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {output["name"]: output for output in response.json()["outputs"]}
