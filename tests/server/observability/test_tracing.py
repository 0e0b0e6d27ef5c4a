"""Spans as a collector gets them, over real HTTP: what the ledger says, and no key."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serving import make_bundle, make_key, make_settings, png, random_images, running, served
from stingy_server import ConfigurationError, create_app

pytestmark = pytest.mark.anyio


class Collector(HTTPServer):
    """Takes spans over HTTP and keeps them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.bodies: list[bytes] = []


class _Taking(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_a_request_is_a_span_with_the_model_inside(
    tmp_path: Path, collector: Collector
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    settings = make_settings(
        tmp_path / "s", make_bundle(tmp_path / "b"), trace_endpoint=endpoint, trace_share=1.0
    )
    key = make_key(settings.state)
    async with running(settings) as (client, _):
        image = png(random_images(1)[0])
        headers = {"authorization": f"Bearer {key}"}
        assert (await client.post("/v1/predict/digits", content=image, headers=headers)).is_success
        assert (await client.post("/v1/predict/digits", content=b"x", headers=headers)).is_error
    spans = [
        span
        for body in collector.bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    by_name = {span.name: span for span in spans}
    assert set(by_name) == {"answer", "model", "unsupported_image"}
    request, model = by_name["answer"], by_name["model"]
    assert model.parent_span_id == request.span_id
    assert request.start_time_unix_nano <= model.start_time_unix_nano
    assert model.end_time_unix_nano <= request.end_time_unix_nano
    attributes = {each.key: each.value for each in request.attributes}
    assert attributes["stingy.model"].string_value == "digits"
    assert attributes["http.response.status_code"].int_value == 200
    assert all(key.encode() not in body for body in collector.bodies)


async def test_without_a_trace_endpoint_nothing_is_sent(
    tmp_path: Path, collector: Collector
) -> None:
    async with running(make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))) as (client, _):
        assert (await client.get("/v2")).is_success
    assert collector.bodies == []


def test_a_missing_extra_is_a_fault_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    settings = make_settings(
        tmp_path / "s", make_bundle(tmp_path / "b"), trace_endpoint="http://127.0.0.1:1/v1/traces"
    )
    with pytest.raises(ConfigurationError, match="otel"):
        create_app(settings)


async def test_O2_framework_sends_no_collector_what_a_client_sent(
    tmp_path: Path, collector: Collector
) -> None:
    environment = {
        "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    bundle = make_bundle(tmp_path / "b")
    with served(bundle, state=tmp_path / "s", **environment) as (address, process):
        httpx.get(f"{address}/made/up/by/a/client?and=more")
        process.terminate()
        process.wait(60)
    assert collector.bodies == []
