"""The join of audits of one protocol that trained other seeds, each in a folder of its own."""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from stingy_attacker_eval.audit.run_folder import NEUTRAL_SETTINGS, PREDICTIONS, RunFolder
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import lock_folder
from stingy_attacker_eval.report_schema import (
    AuditConfig,
    Document,
    EndpointResult,
    Report,
    read_report,
)
from stingy_attacker_eval.results import (
    Row,
    best_attacks,
    count_anew,
    summarise,
)
from stingy_clients.utility import Utility

_SEEDS = {"seeds", "selection_seeds"}
_KEYED = {"keyed_noise"}  # policies whose scores also depend on a secret of the server's state
_SUMMED = {"queries_spent", "queries_charged", "queries_attacks"}


def join_audits(
    folders: Sequence[Path], *, out: Path, selection_seeds: Collection[int] = ()
) -> Report:
    """Join finished audits into OUT, and return the content of OUT/report.json.

    Each folder has other seeds of one protocol, on endpoints that answered alike. Uplifts are
    counted anew, from the baselines of all folders. Queries of an endpoint are the sums over the
    folders, each of which bought its own answers. The utility of a policy with a secret is the mean
    over the seeds, whose folders may come from servers with other secrets. Nothing is queried and
    nothing is trained.

    selection_seeds: the seeds that choose the best attack, beside those that choose in one of the
        folders; all others are reported.

    Raises AuditError, with every fault, if the folders do not fit each other, or if OUT has files.
    """
    if out.exists() and any(out.iterdir()):
        raise AuditError(f"expected a new folder, got {out} with files: choose another")
    reports = [read_report(folder) for folder in folders]
    faults = [
        fault
        for folder, report in zip(folders[1:], reports[1:], strict=True)
        for fault in _faults(folder, report, folders[0], reports[0])
    ]
    rows = [row for report in reports for row in report.rows]
    choosing = {seed for report in reports for seed in report.config.selection_seeds}
    config = _config(reports[0].config, rows, choosing.union(selection_seeds))
    faults += [
        f"expected the seed {seed} in one folder, got it in several"
        for seed in config.seeds + config.selection_seeds
        if sum(any(row.seed == seed for row in report.rows) for report in reports) > 1
    ]
    faults += [
        f"expected rows of the seed {seed}, which shall choose, got none"
        for seed in selection_seeds
        if seed not in config.selection_seeds
    ]
    if not config.seeds:
        faults.append("expected a seed that is reported, got only seeds that choose")
    if faults:
        raise AuditError("; ".join(faults))
    rows = [count_anew(row, rows, selection_seeds=config.selection_seeds) for row in rows]
    summary = summarise(rows, selection_seeds=config.selection_seeds)
    first = [each for each in summary if each.attacker == config.attackers[0].name]
    best = {name: found.attack for name, found in best_attacks(first).items()}
    report = Report(
        config=config,
        environment=_environment(reports),
        endpoints=tuple(
            _endpoint(number, reports, best) for number in range(len(reports[0].endpoints))
        ),
        rows=tuple(rows),
        summary=tuple(summary),
        skipped=tuple(dict.fromkeys(item for report in reports for item in report.skipped)),
    )
    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(out):
        joined = RunFolder(out, config)
        for row in rows:
            joined.add(row)
        for folder in folders:
            if (folder / PREDICTIONS).is_dir():
                shutil.copytree(folder / PREDICTIONS, out / PREDICTIONS, dirs_exist_ok=True)
        report.write(out)
    return report


def _faults(folder: Path, own: Report, first: Path, other: Report) -> list[str]:
    """List what differs between this folder's audit and the first one's, beside the seeds."""
    faults = [
        f"expected the {name} of {first} in {folder}, got another"
        for name in _differing(own.config, other.config, NEUTRAL_SETTINGS | _SEEDS)
    ]
    names = [[endpoint.name for endpoint in each.endpoints] for each in (own, other)]
    if names[0] != names[1]:
        return [*faults, f"expected the endpoints of {first} in {folder}, got others"]
    for mine, theirs in zip(own.endpoints, other.endpoints, strict=True):
        neutral = _SUMMED | {"best"} | ({"utility"} if mine.policy in _KEYED else set())
        faults += [
            f"expected the {name} of {mine.name} as in {first}, got another in {folder}"
            for name in _differing(mine, theirs, neutral)
        ]
    skipped, expected = _skipped(own), _skipped(other)
    if skipped != expected:
        attacks = ", ".join(sorted({attack for _, _, attack in skipped ^ expected}))
        faults.append(f"expected the attacks of {first} in {folder}, got one alone ran {attacks}")
    return faults


def _skipped(report: Report) -> set[tuple[str, str, str]]:
    return {(item.attacker, item.endpoint, item.attack) for item in report.skipped}


def _differing(one: Document, other: Document, neutral: Collection[str]) -> list[str]:
    return [
        name
        for name in type(one).model_fields
        if name not in neutral and getattr(one, name) != getattr(other, name)
    ]


def _config(
    first: AuditConfig, rows: Sequence[Row], selection_seeds: Collection[int]
) -> AuditConfig:
    found = sorted({row.seed for row in rows})
    return first.model_copy(
        update={
            "seeds": tuple(seed for seed in found if seed not in selection_seeds),
            "selection_seeds": tuple(seed for seed in found if seed in selection_seeds),
        }
    )


def _endpoint(number: int, reports: Sequence[Report], best: dict[str, str]) -> EndpointResult:
    parts = [report.endpoints[number] for report in reports]
    last = parts[-1]
    found = {name: sum(getattr(part, name) for part in parts) for name in _SUMMED}
    found |= {"best": best.get(last.name)}
    if last.policy in _KEYED:
        seeds = [len(each.config.seeds + each.config.selection_seeds) for each in reports]
        found |= {"utility": _mean_utility([part.utility for part in parts], seeds)}
    return last.model_copy(update=found)


def _mean_utility(parts: Sequence[Utility], weights: Sequence[int]) -> Utility:
    """Return the weighted mean of what a secret changes: the first five, and the calibration."""
    top5 = float(np.average([part.top5 for part in parts], weights=weights))
    errors = [part.ece for part in parts if part.ece is not None]
    ece = float(np.average(errors, weights=weights)) if len(errors) == len(parts) else None
    return parts[-1].model_copy(update={"top5": top5, "ece": ece})


def _environment(reports: Sequence[Report]) -> dict[str, str | None]:
    """Return the environments' values; where they differ, all of them."""
    names = dict.fromkeys(name for report in reports for name in report.environment)
    found: dict[str, str | None] = {}
    for name in names:
        values = dict.fromkeys(report.environment.get(name) for report in reports)
        texts = [value for value in values if value is not None]
        found[name] = "; ".join(texts) if texts else None
    return found
