"""The Grafana dashboard uses only metrics and labels that a live `/metrics` has."""

import json
import re
import socket
from pathlib import Path

import httpx
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving import make_bundle, make_settings, png, random_images, running
from stingy_server.observability.metrics import Metrics, listen

DASHBOARD = Path(__file__).parents[2] / "docker" / "grafana" / "stingy.json"
PANELS = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


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
            assert names, panel["title"]
            for name in names:
                assert name in labels, (panel["title"], name)
            for group in re.findall(r"by \(([^)]*)\)", target["expr"]):
                group_labels = {label.strip() for label in group.split(",")}
                assert any(group_labels <= labels[name] for name in names), panel["title"]


def test_metrics_port_answers(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listen("127.0.0.1", port, registry=Metrics().registry)
    assert "stingy_requests_in_flight" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
