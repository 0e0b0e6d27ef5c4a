"""The hot path handles the frequent routes, and leaves the rest to FastAPI."""

from pathlib import Path

import pytest

from serving import make_bundle, make_settings, running
from stingy_server.edge import oip_routes, routes, torchserve_routes
from stingy_server.errors import ErrorForm, error_form

pytestmark = pytest.mark.anyio
HOT_ROUTES = routes.HOT_ROUTES | oip_routes.HOT_ROUTES | torchserve_routes.HOT_ROUTES
SCHEMAS = {
    ErrorForm.STINGY: "Refused",
    ErrorForm.OPEN_INFERENCE: "OpenInferenceRefused",
    ErrorForm.TORCHSERVE: "TorchServeRefused",
}


async def test_openapi_document_has_every_route_of_the_hot_path(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (_, app):
        document = app.openapi()["paths"]
        for method, path in HOT_ROUTES:
            operation = document[path][method.lower()]
            assert operation["requestBody"]["required"]
            named = {parameter["name"] for parameter in operation["parameters"]}
            assert all("{" + name + "}" in path for name in named)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_on_hot_path_routes_are_405(tmp_path: Path, method: str) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        for path in ("/v1/predict/digits", "/v2/models/digits/infer"):
            assert (await client.request(method, path)).status_code == 405


async def test_paths_similar_to_hot_path_routes_are_404_or_405(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        for path in ("/v1/predict/digits/", "/v1/predict/a/b", "/v1/predict/", "/x/v1/predict/a"):
            assert (await client.post(path, content=b"x")).status_code in (404, 405)


async def test_openapi_document_has_the_form_of_sent_refusals(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, app):
        document = app.openapi()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                assert "422" not in operation["responses"]
                if method == "head":
                    continue
                content = operation["responses"]["default"]["content"]["application/json"]
                assert content["schema"]["$ref"].endswith(f"/{SCHEMAS[error_form(path)]}")
        for path in ("/v1/predict/digits", "/v2/models/digits/infer", "/predictions/digits"):
            sent = (await client.post(path, content=b"x")).json()
            schema = document["components"]["schemas"][SCHEMAS[error_form(path)]]
            assert set(sent) == set(schema["properties"])
        sent = (await client.post("/v1/predict/digits", content=b"x")).json()["error"]
        assert set(sent) == set(document["components"]["schemas"]["Reason"]["properties"])
