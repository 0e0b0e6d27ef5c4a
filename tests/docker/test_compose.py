"""compose.yaml: valid, one published port, no rights beyond need, no dangling references."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from docker_files import DOCKER, EDGE_UID, compose, documents, environment
from docker_scripts import make_secrets

SERVICES: dict[str, dict[str, Any]] = compose()["services"]
every_service = pytest.mark.parametrize("name", SERVICES)


def test_compose_file_is_valid() -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    done = subprocess.run(
        (
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml"),
        ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


def test_U1_only_the_edge_publishes_and_only_its_api() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"edge": ["127.0.0.1:8080:8080"]}
    assert not any("network_mode" in service for service in SERVICES.values())


def test_U1_only_the_edges_own_network_is_open() -> None:
    networks = compose()["networks"]
    members = {
        network: {name for name, service in SERVICES.items() if network in service["networks"]}
        for network in networks
    }
    opened = [name for name, network in networks.items() if not (network or {}).get("internal")]
    assert opened == ["front"]
    assert members == {
        "front": {"edge"},
        "models": {"edge", "torchserve"},
        "data": {"edge", "postgres", "redis"},
        "watch": {"edge", "prometheus", "grafana"},
    }


@every_service
def test_U4_service_has_no_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges=true"]
    user, _, _ = service["user"].partition(":")
    assert int(user) > 0
    assert service["pids_limit"] > 0
    assert "mem_limit" in service
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(service)


@every_service
def test_image_has_a_fixed_version(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        assert (DOCKER.parent / service["build"]["dockerfile"]).is_file()
        assert service["user"] == f"{EDGE_UID}:{EDGE_UID}"
    else:
        assert re.search(r":v?\d+\.\d+(\.\d+)?$", service["image"])


@every_service
def test_U4_secrets_come_by_file(name: str) -> None:
    service = SERVICES[name]
    for variable, value in service.get("environment", {}).items():
        if re.search("PASSWORD|KEY|TOKEN|SECRET", variable):
            assert variable.endswith("FILE")
            assert value.removeprefix("/run/secrets/") in service["secrets"]
    for argument in service.get("command", []):
        if argument.startswith("/run/secrets/"):
            assert argument.removeprefix("/run/secrets/") in service["secrets"]


def test_every_secret_is_made_and_every_file_is_there(tmp_path: Any) -> None:
    make_secrets(tmp_path / "secrets", model="pets")
    made = {f"secrets/{path.name}" for path in (tmp_path / "secrets").iterdir()}
    document = compose()
    assert {secret["file"] for secret in document["secrets"].values()} == made
    for config in document["configs"].values():
        assert (DOCKER / config["file"]).is_file()
    for kind in ("secrets", "configs", "volumes", "networks"):
        used = set()
        for service in SERVICES.values():
            for use in service.get(kind, []):
                used.add(use["source"] if isinstance(use, dict) else use.partition(":")[0])
        assert {name for name in used if not name.startswith("$")} == set(document[kind]), kind


def test_U4_metrics_listen_on_prometheus_network_alone() -> None:
    (prometheus,) = documents(DOCKER / "prometheus.yaml")
    (job,) = prometheus["scrape_configs"]
    ((target,),) = [config["targets"] for config in job["static_configs"]]
    host, port = target.split(":")
    edge = SERVICES["edge"]
    assert edge["environment"]["STINGY_METRICS_HOST"] == host
    assert port == environment(DOCKER / "server.Dockerfile")["STINGY_METRICS_PORT"]
    named = {
        name
        for name, options in edge["networks"].items()
        if host in (options or {}).get("aliases", [])
    }
    assert named == {"watch"}
    assert "watch" in SERVICES["prometheus"]["networks"]
    assert host not in SERVICES  # such a name would lead to every network
    targets = {Path(each["target"]) for each in SERVICES["prometheus"]["configs"]}
    (settings,) = {each for each in targets if each.name == "prometheus.yml"}
    assert {settings.parent / name for name in prometheus["rule_files"]} <= targets


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    targets = {config["source"]: config["target"] for config in SERVICES["grafana"]["configs"]}
    (datasources,) = documents(DOCKER / "grafana" / "datasource.yaml")
    (datasource,) = datasources["datasources"]
    assert datasource["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES
    (providers,) = documents(DOCKER / "grafana" / "provider.yaml")
    (provider,) = providers["providers"]
    dashboard = targets["grafana_dashboard"]
    assert dashboard == f"{provider['options']['path']}/stingy.json"
    shown = json.loads((DOCKER / "grafana" / "stingy.json").read_text())
    variable = shown["templating"]["list"][0]
    assert (variable["type"], variable["query"]) == ("datasource", datasource["type"])


def test_health_check_queries_the_served_port() -> None:
    for name, port in (("server", 8080), ("torchserve", 9080)):
        text = (DOCKER / f"{name}.Dockerfile").read_text()
        (check,) = re.findall(r"^HEALTHCHECK --interval=5s .*CMD (\[.*\])$", text, re.MULTILINE)
        program, flag, script = json.loads(check)
        assert (program, flag) == ("python", "-c")
        ast.parse(script)
        assert str(port) in script
