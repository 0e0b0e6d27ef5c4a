"""A real Prometheus reads a real server: every query of dashboard and alerts returns data."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from prometheus import RunningPrometheus, programs, prometheus, wait_for
from raw_http import connected, until_closed
from serving import free_port, make_key, png, random_images, served
from webhook_receiver import receiver

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
DOCKER = Path(__file__).parents[2] / "docker"
ALERTS = DOCKER / "alerts.yaml"
DASHBOARD = json.loads((DOCKER / "grafana" / "stingy.json").read_text(encoding="utf-8"))
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}
RULES = {
    rule["alert"]: rule["expr"]
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}
COMPARISON = re.compile(r" (?:==|>) [\d.]+$")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[RunningPrometheus]:
    """Run a server and a Prometheus that reads it, and send the server what it counts."""
    if (found := programs()) is None:
        pytest.skip("needs prometheus (apt-get install prometheus)")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    state, secret = folder / "state", folder / "secret"
    secret.write_text("a secret of some 24 bytes")
    key = make_key(state, budget=10)
    with (
        receiver() as received,
        served(
            *(bundle, "--metrics-port", str(port)),
            state=state,
            STINGY_WEBHOOK_URL=received.url,
            STINGY_WEBHOOK_SECRET_FILE=str(secret),
        ) as (url, _),
        prometheus(found[0], folder, metrics_port=port, rules=ALERTS) as running,
    ):
        headers = {"Authorization": f"Bearer {key}"}
        file = png(random_images(1)[0])
        with httpx.Client(base_url=url, headers=headers) as client:
            # Prometheus computes a rate from two values, so it reads the first answer before.
            assert client.post("/v1/predict/digits", content=file).status_code == 200
            wait_for(lambda: value(running, "sum(stingy_images_answered_total)") == 1)
            statuses = [
                client.post("/v1/predict/digits", content=file).status_code for _ in range(10)
            ]
            assert statuses == [200] * 9 + [429]
            assert client.get("/v1/usage", headers={"Authorization": ""}).status_code == 401
        with connected(url) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n")
            until_closed(connection)
        wait_for(lambda: len(received.posts) == 2)
        wait_for(lambda: value(running, 'stingy_webhooks_total{outcome="delivered"}') == 2)
        yield running


def value(running: RunningPrometheus, expression: str) -> float:
    """Return the sum of the series of an expression, 0 if there is none."""
    return sum(float(series["value"][1]) for series in running.query(expression))


def with_values(expression: str) -> str:
    """Put values into the variables of Grafana."""
    return expression.replace("$__rate_interval", "1m").replace("$model", ".*")


@pytest.mark.parametrize("name", QUERIES)
def test_dashboard_query_returns_data(watched: RunningPrometheus, name: str) -> None:
    expression = with_values(QUERIES[name])
    assert "$" not in expression
    found = watched.query(expression)
    assert found, expression
    assert "NaN" not in {series["value"][1] for series in found}, expression


@pytest.mark.parametrize("name", RULES)
def test_alert_compares_data(watched: RunningPrometheus, name: str) -> None:
    expression, changes = COMPARISON.subn("", RULES[name])
    assert changes == 1
    assert watched.query(expression), expression


def test_variable_lists_the_models(watched: RunningPrometheus) -> None:
    _, variable = DASHBOARD["templating"]["list"]
    listed = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert listed is not None
    models = watched.read(f"label/{listed[2]}/values", **{"match[]": listed[1]})
    assert models == ["digits"]


def test_numbers_are_those_of_the_server(watched: RunningPrometheus) -> None:
    assert value(watched, "sum(stingy_images_answered_total)") == 10
    assert value(watched, "stingy_unauthenticated_total") == 1
    assert value(watched, "stingy_malformed_requests_total") == 1
    assert value(watched, 'stingy_requests_total{event="budget_exhausted"}') == 1
    wait_for(lambda: value(watched, 'max(stingy_watch_scores{at_most="1.0"})') == 1)


def test_first_event_of_a_rare_kind_raises_its_alert(
    watched: RunningPrometheus,
) -> None:
    wait_for(lambda: firing(watched) == {"StingyBudgetNearlyUsed"})


def firing(running: RunningPrometheus) -> set[str]:
    """Return the alerts that fire, after a check that Prometheus computes all of them."""
    rules = [rule for group in running.read("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == set(RULES)
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}, rules
    return {rule["name"] for rule in rules if rule["state"] == "firing"}
