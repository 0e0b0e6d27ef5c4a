"""The frontier: one point a policy."""

from pathlib import Path

from audit_results import audit_of, endpoint_of, row, rows_of, utility_of
from stingy_attacker_eval.report.frontier import frontier, undominated


def test_point_has_client_utility_and_best_attack(tmp_path: Path) -> None:
    rows = rows_of({"stingy": {"paper_kd": -9.0, "soft_label": 2.0}})
    rows += [row("broken", "soft_label", seed, 10.0, finite=False) for seed in range(3)]
    endpoints = [endpoint_of("stingy", utility=utility_of()), endpoint_of("broken")]
    (point,) = frontier(endpoints, audit_of(tmp_path, rows, endpoints).best)
    assert (point.endpoint, point.best.attack, point.utility.top5) == ("stingy", "soft_label", 95.0)


def test_undominated_keeps_what_no_other_beats_in_every_measure() -> None:
    short = utility_of(top5=80.0, ece=None).model_copy(update={"answer_bytes": 8})
    endpoints = [
        endpoint_of("label", utility=short),
        endpoint_of("list", utility=utility_of(top5=95.0, ece=9.0)),
        endpoint_of("worse", utility=utility_of(top5=94.0, ece=9.0)),
        endpoint_of("calibrated", utility=utility_of(top5=85.0, ece=1.0)),
        endpoint_of("twin", utility=utility_of(top5=95.0, ece=9.0)),
    ]
    assert [item.name for item in undominated(endpoints)] == ["label", "list", "calibrated", "twin"]
