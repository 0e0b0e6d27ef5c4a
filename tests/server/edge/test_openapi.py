"""The OpenAPI document: every route, with the form of its answers, its refusals and its key."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator, ValidationError

from infer_requests import IMAGES, tensor
from serving import make_bundle, make_settings, png, running
from stingy_server import ModelSettings
from stingy_server.edge.guard import PROBES

pytestmark = pytest.mark.anyio
NAMES = {"model": "digits", "version": "1"}
FILE = {"content": png(IMAGES[0])}
BODIES: dict[str, dict[str, Any]] = {"infer": {"json": tensor(IMAGES)}, "index": {}}
BINARY = {"parameters": {"binary_data_output": True}}
CLASSES = {"outputs": [{"name": "scores", "parameters": {"classification": 2}}]}


@asynccontextmanager
async def documented(folder: Path) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, Any]]]:
    """Serve a model with scores and one of labels alone. Give a client and the document."""
    bundle = make_bundle(folder / "b")
    settings = make_settings(
        folder / "s",
        ModelSettings(bundle=bundle, budget=1000),
        ModelSettings(bundle=bundle, name="labels", policy="label"),
    )
    async with running(settings) as (client, app):
        yield client, app.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def close(schema: Any) -> Any:
    """Return the schema without room for fields that it does not name."""
    if isinstance(schema, list):
        return [close(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: close(value) for name, value in schema.items()}
    return {"additionalProperties": False, **closed} if "properties" in closed else closed


def check(document: dict[str, Any], path: str, response: httpx.Response) -> None:
    """Check a response against the document, field by field."""
    method = response.request.method.lower()
    described = document["paths"][path][method]["responses"]
    described = described.get(str(response.status_code), described["default"])
    assert set(described["headers"]) >= {"X-Request-Id"}
    if method == "head":
        assert "content" not in described
        assert response.content == b""
        return
    media_type = response.headers["content-type"]
    schema = close(described["content"][media_type]["schema"])
    assert schema, path
    if media_type == "application/json":
        components = close(document["components"])
        Draft202012Validator({**schema, "components": components}).validate(response.json())


def body_of(method: str, path: str) -> dict[str, Any]:
    if method in ("GET", "HEAD"):
        return {}
    return BODIES.get(path.rpartition("/")[2], FILE)


async def test_document_has_every_route_of_the_application(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))) as (_, app):
        # FastAPI keeps the routers that were included.
        routers: list[Any] = app.routes
        found = [route for router in routers for route in router.original_router.routes]
        routes = {(method, route.path) for route in found for method in route.methods}
        assert len(routes) > 25
        assert {(method, path) for method, path, _ in operations(app.openapi())} == routes


async def test_every_operation_has_its_schemas_and_its_key(tmp_path: Path) -> None:
    async with documented(tmp_path) as (_, document):
        (scheme,) = document["components"]["securitySchemes"].values()
        assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
        for method, path, operation in operations(document):
            assert operation["security"] == ([] if path in PROBES else [{"key": []}]), path
            assert operation["description"], path
            assert operation["tags"], path
            assert set(operation["responses"]) >= {"200", "default"}, path
            for response in operation["responses"].values():
                bodies = [content["schema"] for content in response.get("content", {}).values()]
                assert bool(bodies) == (method != "HEAD"), path
                assert all(bodies), path


async def test_every_parameter_is_a_part_of_the_path(tmp_path: Path) -> None:
    async with documented(tmp_path) as (client, document):
        for _, path, operation in operations(document):
            for parameter in operation.get("parameters", ()):
                assert (parameter["in"], f"{{{parameter['name']}}}" in path) == ("path", True)
        # Two versions have an address each, and no query selects another one.
        assert (await client.get("/v2/models/digits?version=9")).status_code == 200


async def test_every_answer_matches_its_schema(tmp_path: Path) -> None:
    async with documented(tmp_path) as (client, document):
        for method, path, _ in operations(document):
            response = await client.request(method, path.format(**NAMES), **body_of(method, path))
            assert response.status_code == 200, (method, path, response.text)
            check(document, path, response)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/predict/{model}", {"content": png(IMAGES[0])}),
        ("/v2/models/{model}", None),
        ("/v2/models/{model}/config", None),
        ("/v2/models/{model}/infer", {"json": tensor(IMAGES)}),
        ("/v2/models/{model}/infer", {"json": tensor(IMAGES, id="a", **BINARY)}),
        ("/predictions/{model}", {"content": png(IMAGES[0])}),
    ],
)
async def test_answers_without_scores_match_their_schemas(
    tmp_path: Path, path: str, body: dict[str, Any] | None
) -> None:
    async with documented(tmp_path) as (client, document):
        method = "GET" if body is None else "POST"
        response = await client.request(method, path.format(model="labels"), **(body or {}))
        assert response.status_code == 200, response.text
        check(document, path, response)


async def test_other_forms_of_answers_match_their_schemas(tmp_path: Path) -> None:
    infer = "/v2/models/{model}/infer"
    async with documented(tmp_path) as (client, document):
        for request in (tensor(IMAGES, **BINARY), tensor(IMAGES, **CLASSES), tensor(IMAGES, id=7)):
            response = await client.post(infer.format(**NAMES), json=request)
            assert response.status_code == 200, response.text
            check(document, infer, response)
        check(document, "/v2/models/{model}", await client.get("/v2/models/stats"))


async def test_every_refusal_matches_its_schema(tmp_path: Path) -> None:
    async with documented(tmp_path) as (client, document):
        for method, path, _ in operations(document):
            if path in PROBES:
                continue
            for names, headers, status in (
                (NAMES, {"Authorization": ""}, 401),
                ({"model": "x", "version": "1"}, {}, 404 if "{" in path else 200),
            ):
                response = await client.request(
                    method, path.format(**names), headers=headers, **body_of(method, path)
                )
                assert response.status_code == status, (method, path)
                check(document, path, response)


async def test_a_stopping_server_matches_the_schemas_of_probes(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))) as (client, app):
        app.state.service.draining = True
        for path in sorted(PROBES):
            for method in ("GET", "HEAD"):
                check(app.openapi(), path, await client.request(method, path))


async def test_requests_that_are_answered_match_their_schema(tmp_path: Path) -> None:
    async with documented(tmp_path) as (client, document):
        schema = {"$ref": "#/components/schemas/InferRequest", "components": document["components"]}
        validator = Draft202012Validator(schema)
        for request in (tensor(IMAGES, **BINARY), tensor(IMAGES, **CLASSES), tensor(IMAGES)):
            validator.validate(json.loads(json.dumps(request)))
            response = await client.post("/v2/models/digits/infer", json=request)
            assert response.status_code == 200, response.text
        for request in ({}, tensor(IMAGES, inputs=[]), tensor(IMAGES, id=[1])):
            assert (await client.post("/v2/models/digits/infer", json=request)).is_client_error
            with pytest.raises(ValidationError):
                validator.validate(json.loads(json.dumps(request)))
