"""The frontier: one point a policy."""

from pathlib import Path

from audit_results import audit_of, endpoint_of, row, rows_of, utility_of
from stingy_attacker_eval.report.frontier import frontier


def test_point_has_client_utility_and_best_attack(tmp_path: Path) -> None:
    rows = rows_of({"stingy": {"paper_kd": -9.0, "soft_label": 2.0}})
    rows += [row("broken", "soft_label", seed, 10.0, finite=False) for seed in range(3)]
    endpoints = [endpoint_of("stingy", utility=utility_of()), endpoint_of("broken")]
    (point,) = frontier(endpoints, audit_of(tmp_path, rows, endpoints).summaries)
    assert (point.endpoint, point.best.attack, point.utility.top5) == ("stingy", "soft_label", 95.0)
