"""Alerts and dashboard: what each says, and that each alert fires when it should, by promtool."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from docker_files import DOCKER, documents
from prometheus import programs

ALERTS = DOCKER / "alerts.yaml"
RULES = {rule["alert"]: rule for rule in documents(ALERTS)[0]["groups"][0]["rules"]}
DASHBOARD = json.loads((DOCKER / "grafana" / "stingy.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ANSWERS = {'stingy_requests_total{event="answer"}': "0+6000x20"}
# The series of a server in trouble and in order, as promtool reads them: first+step x count.
TROUBLE: dict[str, dict[str, str]] = {
    "StingyDown": {'up{job="stingy"}': "0x20"},
    "StingyFaults": {**ANSWERS, 'stingy_requests_total{event="internal"}': "0+120x20"},
    "StingyOverloaded": {**ANSWERS, 'stingy_requests_total{event="overloaded"}': "0+600x20"},
    "StingySlow": {
        'stingy_request_seconds_bucket{model="m",le="1"}': "0+90x20",
        'stingy_request_seconds_bucket{model="m",le="2"}': "0+100x20",
        'stingy_request_seconds_bucket{model="m",le="+Inf"}': "0+100x20",
    },
    "StingyWatchAlarm": {'stingy_watch_keys{step="refuse"}': "1x20"},
    "StingyGuessedKeys": {"stingy_unauthenticated_total": "0+900x20"},
    "StingyBudgetNearlyUsed": {
        'stingy_budget_notices_total{budget="key",period="day",percent="95"}': "0x10 1x10"
    },
    "StingyWebhooksLost": {'stingy_webhooks_total{outcome="failed"}': "0x10 1x10"},
    "StingyConnectionsDropped": {'stingy_connections_dropped_total{reason="slow"}': "0+90x20"},
}
ORDER: dict[str, str] = {
    **ANSWERS,
    'up{job="stingy"}': "1x20",
    'stingy_requests_total{event="internal"}': "0+30x20",
    'stingy_requests_total{event="overloaded"}': "0+60x20",
    'stingy_requests_total{event="budget_exhausted"}': "0+6000x20",
    'stingy_request_seconds_bucket{model="m",le="1"}': "0+100x20",
    'stingy_request_seconds_bucket{model="m",le="+Inf"}': "0+100x20",
    'stingy_watch_keys{step="refuse"}': "0x20",
    "stingy_unauthenticated_total": "0+60x20",
    'stingy_budget_notices_total{budget="key",period="day",percent="95"}': "1x20",
    'stingy_budget_notices_total{budget="key",period="day",percent="80"}': "0+1x20",
    'stingy_webhooks_total{outcome="delivered"}': "0+10x20",
    'stingy_webhooks_total{outcome="failed"}': "0x20",
    'stingy_connections_dropped_total{reason="slow"}': "0+6x20",
}


def tried(series: dict[str, str], *, firing: tuple[str, ...]) -> dict[str, Any]:
    """Return a test of promtool: which alerts fire after 18 minutes of these series."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "18m",
                "exp_samples": [
                    {"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing
                ],
            }
        ],
    }


def run_promtool(folder: Path, *tests: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    if (found := programs()) is None:
        pytest.skip("needs prometheus and promtool (apt-get install prometheus)")
    file = folder / "tests.json"  # JSON is YAML
    document = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}
    file.write_text(json.dumps(document), encoding="utf-8")
    return subprocess.run([found[1], "test", "rules", file], capture_output=True, text=True)


def test_every_alert_has_its_trouble_here() -> None:
    assert set(TROUBLE) == set(RULES)


def test_every_alert_fires_in_its_trouble_alone(tmp_path: Path) -> None:
    tests = [tried(series, firing=(name,)) for name, series in TROUBLE.items()]
    done = run_promtool(tmp_path, *tests, tried(ORDER, firing=()))
    assert done.returncode == 0, done.stderr + done.stdout


def test_an_alert_that_does_not_fire_is_found(tmp_path: Path) -> None:
    done = run_promtool(tmp_path, tried(ORDER, firing=("StingyDown",)))
    assert done.returncode == 1


@pytest.mark.parametrize("name", RULES)
def test_alert_says_what_is_wrong_and_what_to_do(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")
    for page in re.findall(r"docs/\w+\.md", rule["annotations"]["description"]):
        assert (DOCKER.parent / page).exists()


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel_is_described_and_named_alerts_exist(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert set(re.findall(r"\bStingy[A-Z]\w+", panel["description"])) <= set(RULES)
    assert panel["fieldConfig"]["defaults"]["unit"]
    if panel["type"] == "stat":
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    for target in panel["targets"]:
        assert target["legendFormat"]


def test_panels_fill_the_grid_without_overlaps() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
    height = max(y for _, y in cells) + 1
    assert cells == {(x, y) for x in range(24) for y in range(height)}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
