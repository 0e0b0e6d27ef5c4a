"""Made-up audits: as many endpoints, attacks and seeds as a test needs, in a report.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import permutations
from pathlib import Path
from typing import Any

from stingy_attacker_eval.files import write_json
from stingy_attacker_eval.report.analysis import Audit, read_report
from stingy_attacker_eval.results import NO_ENDPOINT, Row, summarise

BASE = 70.0
STUDENT = "cnn_tiny"
# Three seeds around a mean: their sample standard deviation is 0.3.
SEEDS = (-0.3, 0.0, 0.3)
# No two attacks fare alike with a seed, so that differences seed by seed vary too.
_ORDERS = list(permutations(SEEDS))[1:]


def row(endpoint: str, attack: str, seed: int, accuracy: float, **other: Any) -> Row:
    """One run; the baseline is 70 %."""
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


def endpoint_of(name: str, **other: Any) -> dict[str, Any]:
    """What a report says of an endpoint."""
    return {
        "name": name,
        "defence": name,
        "policy": name,
        "scores": "log_prob",
        "decimals": 3,
        "fingerprint": "a" * 12,
        "model": name,
        "version": "1",
        "support": 2,
        "num_classes": 10,
        "queries_transfer": 1000,
        "queries_evaluation": 500,
        "queries_spent": 1500,
        "queries_charged": 1500,
        "teacher_accuracy": 80.0,
        "best": None,
        **other,
    }


def kept(top1: float = 80.0, top5: float = 95.0, ece: float | None = 4.0) -> dict[str, Any]:
    """An endpoint's utility."""
    return {"images": 500, "top1": top1, "top5": top5, "ece": ece, "answer_bytes": 24}


def audit_of(
    folder: Path,
    rows: Sequence[Row],
    endpoints: Sequence[Mapping[str, Any]] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Audit:
    """Write the rows as FOLDER/report.json and read it back."""
    names = [name for name in dict.fromkeys(r.endpoint for r in rows) if name != NO_ENDPOINT]
    shown = endpoints or [endpoint_of(name) for name in names]
    document = {
        "schema": "stingy.audit/1",
        "config": {
            "title": "made up",
            "dataset": "digits",
            "epochs": 5,
            "batch": 64,
            "lr": 0.1,
            "students": [STUDENT],
            "seeds": [0, 1, 2],
            "attacks": {r.attack: _settings(r.attack) for r in rows},
            "endpoints": [{"name": item["name"]} for item in shown],
            **(config or {}),
        },
        "environment": {"device": "cpu", "cpu": "a core", "commit": None},
        "endpoints": list(shown),
        "rows": [asdict(r) for r in rows],
        "summary": [asdict(s) for s in summarise(rows)],
        "skipped": [],
    }
    write_json(folder / "report.json", document)
    return read_report(folder)


def _settings(label: str) -> dict[str, float]:
    """`sweep[tau=1,alpha=0.5]` to its numbers."""
    parts = label.partition("[")[2].rstrip("]").split(",")
    return {
        name: float(value)
        for name, _, value in (part.partition("=") for part in parts)
        if value[:1].isdigit()
    }
