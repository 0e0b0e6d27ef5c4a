"""The JSON documents of the page. No document has a key's text, a pixel's digest or an output."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from stingy_server.console.estimates import Audits, LeakRange
from stingy_server.console.traffic import Endpoint, Shown, Traffic
from stingy_server.detection.key_profiles import Action, KeyProfile
from stingy_server.store.budget import Budget
from stingy_server.store.deployments import Report
from stingy_server.store.key import Key, is_current
from stingy_server.times import today

MOST_BITS = 32.0  # of one answer, as the leak meter counts one that hides nothing

Document = dict[str, Any]


def key_document(
    key: Key,
    budget: Budget,
    profile: KeyProfile | None,
    *,
    traffic: Traffic,
    audits: Audits,
    alarm: float,
    now: float,
) -> Document:
    """Return the row of a key.

    Args:
        alarm: the score from which a key is in alarm.
        now: in seconds since 1970.
    """
    day = today()
    known = profile or KeyProfile(key.id)
    ranges, unaudited = key_ranges(key, known, traffic=traffic, audits=audits)
    return {
        "id": key.id,
        "name": key.name,
        "tier": key.tier,
        "state": key_state(key),
        "expires": key.expires,
        "used": budget.used,
        "total": budget.total,
        "day_used": budget.used_in_day(day),
        "day_total": budget.day_total,
        "images": known.images,
        "bits": round(known.bits / known.images, 2) if known.images else None,
        "score": None if profile is None else round(profile.score, 3),
        "action": known.action,
        "alarm": known.action != Action.NONE or known.score >= alarm,
        "alarm_since": _alarm_since(known, traffic),
        "last": _last_s(key.id, profile, traffic),
        "minutes": traffic.minutes(key.id, now),
        "leak": _leak_document(ranges, unaudited),
    }


def detail_document(
    key: Key,
    budget: Budget,
    profile: KeyProfile | None,
    entries: Sequence[Shown],
    *,
    traffic: Traffic,
    audits: Audits,
) -> Document:
    """Return more about one key: the evidence of the watch, the classes, its entries."""
    known = profile or KeyProfile(key.id)
    counts: dict[str, tuple[int, dict[str, float]]] = json.loads(known.classes)
    endpoints = traffic.answered.get(key.id, Counter[Endpoint]())
    return {
        "id": key.id,
        "created": key.created,
        "revoked": key.revoked,
        "rate": key.rate,
        "request_rate": key.request_rate,
        "models": None if key.models is None else sorted(key.models),
        "month_used": budget.used_in_month(today()),
        "month_total": budget.month_total,
        "watched": profile is not None,
        "near": round(known.near_share, 4),
        "compared": round(known.novel),
        "normality": None if known.normality is None else round(known.normality, 3),
        "coverage": round(known.coverage, 3),
        "day_share": round(known.budget_used_today, 4),
        "classes": [
            {"model": model, "size": size, "counts": _class_counts(size, found)}
            for model, (size, found) in sorted(counts.items())
        ],
        "answered": [
            {
                **endpoint._asdict(),
                "images": images,
                "leaks": [
                    {"audit": each.audit, "attacker": each.attacker, "text": each.text}
                    for each in audits.ranges(
                        endpoint, key.tier, _at_most(images, key.id, known, traffic)
                    )
                ],
            }
            for endpoint, images in sorted(endpoints.items(), key=lambda pair: -pair[1])
        ],
        "entries": [entry_document(entry) for entry in entries],
    }


def key_ranges(
    key: Key, profile: KeyProfile, *, traffic: Traffic, audits: Audits
) -> tuple[list[LeakRange], int]:
    """Return the worst range for each version that a key queried, and the number without any."""
    worst, unaudited = [], 0
    for endpoint, images in traffic.answered.get(key.id, {}).items():
        found = audits.ranges(endpoint, key.tier, _at_most(images, key.id, profile, traffic))
        if found:
            worst.append(found[0])
        else:
            unaudited += 1
    return worst, unaudited


def key_state(key: Key) -> str:
    """Return "valid", "expired" or "revoked"."""
    if key.revoked is not None:
        return "revoked"
    return "valid" if is_current(key) else "expired"


def model_documents(reports: Iterable[Report], traffic: Traffic, *, now: float) -> list[Document]:
    """Return a row for each version that a process serves, or cannot serve."""
    versions: dict[tuple[str, str], list[Report]] = {}
    for report in reports:
        versions.setdefault((report.name, report.version), []).append(report)
    return [
        {
            "name": name,
            "version": version,
            "policies": sorted({each.policy for each in own if each.fault is None}),
            "fingerprint": traffic.fingerprints.get((name, version)),
            "shares": sorted({_share(each) for each in own if each.fault is None}),
            "processes": sum(each.fault is None for each in own),
            "faults": sorted({each.fault for each in own if each.fault is not None}),
            "warnings": sorted({line for each in own for line in each.warnings.splitlines()}),
            "images": round(traffic.model_rate(name, version, now), 2),
        }
        for (name, version), own in sorted(versions.items())
    ]


def entry_document(entry: Shown) -> Document:
    """Return an entry of the ledger."""
    detail = None if entry.detail is None else json.loads(entry.detail)
    return {**entry._asdict(), "detail": detail, "kind": entry.kind}


def server_document(reports: Sequence[Report]) -> Document:
    """Return whether a server is up: the processes that reported, and the versions they serve."""
    served = [each for each in reports if each.fault is None]
    return {
        "ready": bool(served),
        "processes": len({each.process for each in reports}),
        "models": len({(each.name, each.version) for each in served}),
    }


def _leak_document(ranges: Sequence[LeakRange], unaudited: int) -> Document | None:
    """Return the worst range of a key; None if no version that it queried was audited."""
    if not ranges:
        return None
    worst = max(ranges, key=lambda each: (each.worst, each.low))
    return {
        "text": worst.text,
        "audit": worst.audit,
        "attacker": worst.attacker,
        "order": min(worst.worst, 10.0),
        "unaudited": unaudited,
    }


def _at_most(images: int, key: str, profile: KeyProfile, traffic: Traffic) -> int:
    """Return the most images that a key got answered by one version.

    Answers of which the ledger has no entry, because it was pruned or is still being read, may all
    have been of this version.
    """
    counted = sum(traffic.answered.get(key, {}).values())
    return images + max(0, profile.images - counted)


def _alarm_since(profile: KeyProfile, traffic: Traffic) -> float | None:
    """Return the time of the alarm, in seconds since 1970; None if it is not known, or over."""
    entry = traffic.alarms.get(profile.key)
    if profile.action == Action.NONE or entry is None or entry.event == "released":
        return None
    return datetime.fromisoformat(entry.time).timestamp()


def _last_s(key: str, profile: KeyProfile | None, traffic: Traffic) -> float | None:
    """Return the time of the key's latest request, in seconds since 1970; None if not known."""
    answered = 0.0 if profile is None else profile.updated
    return max(answered, traffic.last_s.get(key, 0.0)) or None


def _class_counts(size: int, counts: Mapping[str, float]) -> list[float]:
    """Return the count of each class; for many classes, of each run of neighbours."""
    shown = min(size, 100)
    found = [0.0] * shown
    for label, count in counts.items():
        found[min(int(label) * shown // size, shown - 1)] += count
    return [round(count, 1) for count in found]


def _share(report: Report) -> str:
    return "the rest" if report.share is None else f"{report.share:.0%}"
