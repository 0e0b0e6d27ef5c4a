"""The references of the site: the HTTP API, the gRPC service and the Python packages."""

import re
from pathlib import Path

import pytest

from serving import make_bundle, make_settings
from stingy_server import create_app
from stingy_site.grpc_reference import grpc_page, proto
from stingy_site.http_reference import export, http_page, swagger_page, swagger_script
from stingy_site.python_reference import PACKAGES, python_page

DOCUMENT = export()


def test_exported_document_is_that_of_a_server(tmp_path: Path) -> None:
    app = create_app(make_settings(tmp_path / "s", make_bundle(tmp_path / "b")))
    try:
        assert app.openapi() == DOCUMENT
    finally:
        app.state.service.close()


def test_http_page_has_every_route_and_every_schema() -> None:
    page = http_page(DOCUMENT)
    for path, methods in DOCUMENT["paths"].items():
        for method in methods:
            assert f"### `{method.upper()} {path}`\n" in page
    for name in DOCUMENT["components"]["schemas"]:
        assert f"### `{name}`\n" in page


def test_every_anchor_of_the_http_page_is_defined_once() -> None:
    page = http_page(DOCUMENT)
    defined = re.findall(r"^\(([\w-]+)\)=$", page, re.MULTILINE)
    assert len(defined) == len(set(defined)) > 40
    used = set(re.findall(r"\]\(#([\w-]+)\)", page))
    assert used <= set(defined)
    assert {f"schema-{name.lower()}" for name in DOCUMENT["components"]["schemas"]} <= set(defined)


def test_swagger_page_tries_nothing_and_loads_nothing_foreign() -> None:
    page = swagger_page()
    assert "supportedSubmitMethods: []" in page
    assert "validatorUrl: null" in page
    assert "://" not in page
    assert swagger_script(DOCUMENT).startswith("const OPENAPI = {")


def test_grpc_page_has_every_rpc_and_every_field() -> None:
    messages = pytest.importorskip("stingy_server.rpc.messages", reason="needs the extra grpc")
    methods = pytest.importorskip("stingy_server.rpc.methods")
    page, text = grpc_page(), proto()
    for name in (path.rpartition("/")[2] for path in methods.RPCS):
        assert f"| `{name}` |" in page
        assert f"  rpc {name}({name}Request) returns ({name}Response) {{}}\n" in text
        for kind in ("Request", "Response"):
            assert f"message {name}{kind} {{" in text
    for name, message in messages.MESSAGES.items():
        body = text.partition(f"message {name} {{")[2].partition("\n}")[0]
        for field in message.DESCRIPTOR.fields:
            assert re.search(rf"\b{field.name} = {field.number};", body), (name, field.name)
    assert "map<string, InferParameter> parameters = 4;" in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("package", PACKAGES)
def test_python_page_has_every_public_name(package: str) -> None:
    module = pytest.importorskip(package)
    page = python_page(package)
    for name in module.__all__:
        assert re.search(rf"^\.\. auto\w+:: {package}\.{name}$", page, re.MULTILINE), name
