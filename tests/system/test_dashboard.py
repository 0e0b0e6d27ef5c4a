"""The Grafana dashboard uses only metrics and labels that a live `/metrics` has."""

import json
import re
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from checks import assert_plain_headers
from raw_http import connected, until_closed
from serving import free_port, make_bundle, make_settings, png, random_images, running
from stingy_server.observability.metrics import Metrics
from stingy_server.observability.metrics_server import MAX_SCRAPES, MetricsServer

DASHBOARD = Path(__file__).parents[2] / "docker" / "grafana" / "stingy.json"
PANELS = [
    panel
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    if panel["type"] != "row"
]


@pytest.mark.anyio
async def test_every_panel_finds_its_metrics_and_labels(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, app):
        await client.post("/v1/predict/digits", content=png(random_images(1)[0]))
        page = generate_latest(app.state.service.metrics.registry).decode()
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    assert len(PANELS) >= 6
    for panel in PANELS:
        for target in panel["targets"]:
            names = re.findall(r"stingy_\w+", target["expr"])
            assert names or target["expr"].startswith("sum(up{"), panel["title"]
            for name in names:
                assert name in labels, (panel["title"], name)
            for group in re.findall(r"by \(([^)]*)\)", target["expr"]):
                group_labels = {label.strip() for label in group.split(",")}
                assert any(group_labels <= labels[name] for name in names), panel["title"]


@pytest.fixture(scope="module")
def metrics_port() -> int:
    port = free_port()
    server = MetricsServer("127.0.0.1", port)
    server.listen()
    server.start(Metrics().registry)
    return port


def test_H10_metrics_port_answers_and_names_no_server(metrics_port: int) -> None:
    response = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics")
    assert "stingy_requests_in_flight" in response.text
    assert_plain_headers(response.headers)


@pytest.mark.parametrize(
    "request_bytes", [b"BREW /x HTTP/1.1\r\n\r\n", b"GET /\x1b[31m forged HTTP/9\r\n\r\n", b"x\r\n"]
)
def test_H10_metrics_port_refuses_without_an_echo(metrics_port: int, request_bytes: bytes) -> None:
    with connected(f"http://127.0.0.1:{metrics_port}") as connection:
        connection.sendall(request_bytes)
        received = until_closed(connection)
    assert b"Server:" not in received
    assert b"Python" not in received
    assert not {b"BREW", b"forged", b"\x1b"} & set(received.replace(b"'", b" ").split())


def test_C3_silent_scrapers_take_a_bounded_number_of_files(metrics_port: int) -> None:
    with ExitStack() as stack:
        address = f"http://127.0.0.1:{metrics_port}"
        silent = [stack.enter_context(connected(address)) for _ in range(MAX_SCRAPES + 1)]
        assert until_closed(silent[-1]) == b""
