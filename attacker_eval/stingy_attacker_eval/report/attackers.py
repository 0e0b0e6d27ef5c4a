"""The table by attacker: what each gains from each endpoint, against its own baselines."""

from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.formatting import cost, percent, signed
from stingy_attacker_eval.results import Summary

HEAD = (
    "attacker",
    "endpoint",
    "no API, %",
    "best on labels",
    "best attack",
    "queries",
    "uplift (95 % interval)",
)


def attacker_table(audit: Audit) -> tuple[tuple[str, ...], ...]:
    """Return a line of cells, as in HEAD, for each attacker and endpoint with a best attack.

    "Best on labels" is the uplift of the best attack that reads labels alone on this endpoint.
    """
    lines = []
    for view in audit.views:
        labels = {item.endpoint: item.baseline for item in view.label_baselines}
        for endpoint in view.endpoints:
            best = view.best.get(endpoint.name)
            if best is None:
                continue
            base = view.baseline(best.student)
            lines.append(
                (
                    view.attacker.name,
                    endpoint.name,
                    percent(base.accuracy_mean, base.accuracy_spread),
                    _labels_cell(labels.get(endpoint.name)),
                    best.shown,
                    cost(best.queries),
                    view.uplift(best).text,
                )
            )
    return tuple(lines)


def possessions(audit: Audit) -> tuple[tuple[str, str], ...]:
    """Return each attacker's name and its possessions in words."""
    return tuple((view.attacker.name, view.attacker.text) for view in audit.views)


def _labels_cell(baseline: Summary | None) -> str:
    if baseline is None:
        return ""
    return f"{signed(baseline.uplift_mean, baseline.uplift_spread)} ({baseline.attack})"
