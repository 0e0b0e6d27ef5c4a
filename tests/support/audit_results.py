"""Made-up audits: as many endpoints, attacks and seeds as a test needs, in a report.json."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from stingy_attacker_eval.report.analysis import Audit, read_audit
from stingy_attacker_eval.report_schema import AuditConfig, EndpointResult, Report
from stingy_attacker_eval.results import NO_ENDPOINT, Row, summarise
from stingy_clients.utility import Utility

BASE = 70.0
STUDENT = "cnn_tiny"
# Three seeds around a mean: their sample standard deviation is 0.3.
SEEDS = (-0.3, 0.0, 0.3)
# No two attacks fare alike with a seed, so that differences seed by seed vary too.
_ORDERS = list(permutations(SEEDS))[1:]


def row(endpoint: str, attack: str, seed: int, accuracy: float, **other: Any) -> Row:
    """Make one row; the baseline is 70 %."""
    is_baseline = endpoint == NO_ENDPOINT
    values: dict[str, Any] = {
        "defence": "no_api" if is_baseline else endpoint,
        "student": STUDENT,
        "queries": 0 if is_baseline else other.get("budget") or 1000,
        "agreement": None if is_baseline else accuracy + 1,
        "teacher_accuracy": None if is_baseline else 80.0,
        "uplift": 0.0 if is_baseline else accuracy - BASE,
        "finite": True,
        "seconds": 1.0,
    }
    return Row(
        endpoint=endpoint, attack=attack, seed=seed, accuracy=accuracy, **{**values, **other}
    )


def rows_of(uplifts: Mapping[str, Mapping[str, float]], **other: Any) -> list[Row]:
    """Three seeds of every attack of every endpoint, by mean uplift, and of the baseline."""
    rows = [row(NO_ENDPOINT, "no_api", seed, BASE + SEEDS[seed]) for seed in range(3)]
    names = list(dict.fromkeys(name for attacks in uplifts.values() for name in attacks))
    for endpoint, attacks in uplifts.items():
        for attack, uplift in attacks.items():
            seeds = _ORDERS[names.index(attack) % len(_ORDERS)]
            rows += [
                row(endpoint, attack, seed, BASE + uplift + seeds[seed], **other)
                for seed in range(3)
            ]
    return rows


def endpoint_of(name: str, **other: Any) -> EndpointResult:
    """Return what a report says of an endpoint; its labels are those of no other one."""
    values: dict[str, Any] = {
        "name": name,
        "defence": name,
        "policy": name,
        "scores": "log_prob",
        "decimals": 3,
        "fingerprint": "a" * 12,
        "model": name,
        "version": "1",
        "support": 2,
        "labels": f"labels of {name}",
        "num_classes": 10,
        "queries_transfer": 1000,
        "queries_evaluation": 500,
        "queries_attacks": 0,
        "queries_spent": 1500,
        "queries_charged": 1500,
        "teacher_accuracy": 80.0,
        "utility": utility_of(top5=80.0 if other.get("support") == 1 else 95.0),
        "best": None,
    }
    return EndpointResult(**values | other)


def utility_of(top1: float = 80.0, top5: float = 95.0, ece: float | None = 4.0) -> Utility:
    return Utility(images=500, top1=top1, top5=top5, ece=ece, answer_bytes=24)


def config_of(names: Sequence[str], labels: Sequence[str], **other: Any) -> AuditConfig:
    """Return the configuration of an audit of these endpoints, with these attacks on all."""
    values: dict[str, Any] = {
        "title": "made up",
        "dataset": "digits",
        "budget": 2000,
        "epochs": 5,
        "lr": 0.1,
        "students": [STUDENT],
        "seeds": [0, 1, 2],
        "attacks": {label: _settings(label) for label in labels},
        "endpoints": [endpoint_config(name) for name in names],
        "student_widths": {STUDENT: 8},
        **{f"{part}_digest": "0" for part in ("train", "test", "train_labels", "test_labels")},
    }
    return AuditConfig(**values | other)


def endpoint_config(name: str, **other: Any) -> dict[str, Any]:
    """Return what a configuration says of an endpoint."""
    return {"name": name, "model": name, "defence": name, **other}


def report_of(
    rows: Sequence[Row],
    endpoints: Sequence[EndpointResult] | None = None,
    config: Mapping[str, Any] | None = None,
    **other: Any,
) -> Report:
    """Return the report of these rows; `other` replaces parts of it."""
    names = [name for name in dict.fromkeys(r.endpoint for r in rows) if name != NO_ENDPOINT]
    shown = endpoints or [endpoint_of(name) for name in names]
    labels = list(dict.fromkeys(r.attack for r in rows))
    values: dict[str, Any] = {
        "config": config_of([item.name for item in shown], labels, **(config or {})),
        "environment": {"device": "cpu", "cpu": "a core", "commit": None},
        "endpoints": shown,
        "rows": rows,
        "summary": summarise(rows),
        "skipped": [],
    }
    return Report(**values | other)


def audit_of(
    folder: Path,
    rows: Sequence[Row],
    endpoints: Sequence[EndpointResult] | None = None,
    config: Mapping[str, Any] | None = None,
    **other: Any,
) -> Audit:
    """Write the report of the rows as FOLDER/report.json and read it back."""
    report_of(rows, endpoints, config, **other).write(folder)
    return read_audit(folder)


def _settings(label: str) -> dict[str, float]:
    """`sweep[tau=1,alpha=0.5]` to its numbers."""
    parts = label.partition("[")[2].rstrip("]").split(",")
    return {
        name: float(value)
        for name, _, value in (part.partition("=") for part in parts)
        if value[:1].isdigit()
    }
