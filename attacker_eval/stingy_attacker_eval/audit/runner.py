"""A whole audit: buy, train, compare. Finished work is never repeated or paid for twice."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from stingy_attacker_eval.audit.executors import Executor, in_turn
from stingy_attacker_eval.audit.measures import teacher_log_probs
from stingy_attacker_eval.audit.plan import mark_duplicates, plan_jobs, possible_runs
from stingy_attacker_eval.audit.pretraining import pretrain
from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.protocol_faults import budget_faults
from stingy_attacker_eval.audit.purchase import (
    PurchasedData,
    buy_from,
    check_networks,
    match_classes,
    remaining_faults,
)
from stingy_attacker_eval.audit.run_folder import RunFolder, audit_config
from stingy_attacker_eval.audit.runs import Shard, choose, pattern_faults
from stingy_attacker_eval.audit.train_jobs import TrainingPlace, train_jobs
from stingy_attacker_eval.environment import default_device, describe_environment
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import lock_folder
from stingy_attacker_eval.oracle.oracle import Oracle
from stingy_attacker_eval.progress import report_progress
from stingy_attacker_eval.report_schema import Report
from stingy_attacker_eval.results import Row, best_attacks, count_anew, summarise
from stingy_attacker_eval.training import to_device


def run_audit(
    protocol: Protocol,
    *,
    oracles: Mapping[str, Oracle],
    out: Path,
    console: Console | None = None,
    networks: Mapping[str, nn.Module] | None = None,
    only: Sequence[str] = (),
    shard: Shard | None = None,
    remaining: int | None = None,
    executor: Executor = in_turn,
) -> Report:
    """Run the protocol against its endpoints, write OUT and return the content of OUT/report.json.

    OUT/rows.jsonl grows by a row per run. A second call does only the missing runs.

    oracles: one for every endpoint, by its name.
    networks: the endpoints' teachers, for white-box attacks; without one those are skipped.
    only, shard: the runs to do now, as `runs.choose` takes them. The report also has the runs
        that other calls did in the same folder.
    remaining: images left to the key, if it has a limit.
    executor: trains the students, except those whose attacks query while they run.

    Raises AuditError, with every fault, before a query is spent if the endpoints cannot be audited
    with this protocol. Raises TransferError or AuditError if the audit cannot go on. Finished runs
    are kept, also on Ctrl-C.
    """
    absent = sorted({endpoint.name for endpoint in protocol.endpoints} - set(oracles))
    if absent:
        raise AuditError(f"expected an oracle for every endpoint, got none for {', '.join(absent)}")
    dataset = protocol.load()
    device = default_device()
    is_new = not (out / "config.json").exists()
    faults = [
        *budget_faults(protocol, dataset),
        *remaining_faults(remaining if is_new else None, protocol, dataset, whole=not only),
    ]
    ordered, unmatched = match_classes(protocol, oracles, dataset)
    infos = {name: oracle.describe() for name, oracle in ordered.items()}
    runs, idle = possible_runs(protocol, infos, networks or {}, len(dataset.train_x))
    faults += [*unmatched, *idle]
    if not unmatched:
        faults += pattern_faults(runs, only)
    if faults:
        raise AuditError(*faults)
    config = audit_config(protocol, dataset)
    with lock_folder(out), report_progress(console or Console()) as reporter:
        folder = RunFolder(out, config)
        folder.check_rows(dataset)
        # Before the purchase, because a network that cannot be trained ends the audit.
        starts = pretrain(protocol, dataset, out, device, reporter)
        purchases = [
            buy_from(endpoint, ordered[endpoint.name], protocol, dataset, folder, reporter)
            for endpoint in protocol.endpoints
        ]
        check_networks(purchases, networks or {}, dataset, device)
        jobs, skipped = plan_jobs(protocol, dataset, purchases, device, networks or {})
        chosen = set(choose([job.run for job in jobs], only=only, shard=shard))
        jobs = [job for job in jobs if job.run in chosen or folder.get(job.run) is not None]
        jobs = mark_duplicates(jobs)
        place = TrainingPlace(
            protocol=protocol,
            dataset=dataset,
            purchases=purchases,
            teachers=_teachers(purchases, networks or {}, to_device(dataset.test_x, device)),
            starts=starts,
            device=device,
        )
        trained = train_jobs(jobs, folder, place, reporter, executor)
        choosing = protocol.selection_seeds
        rows = [count_anew(row, trained, selection_seeds=choosing) for row in trained]
        summary = summarise(rows, selection_seeds=choosing)
        first = [s for s in summary if s.attacker == protocol.attackers[0].name]
        best = {name: found.attack for name, found in best_attacks(first).items()}
        report = Report(
            config=config,
            environment=_environment(device, rows),
            endpoints=tuple(item.result(best=best.get(item.endpoint.name)) for item in purchases),
            rows=tuple(rows),
            summary=tuple(summary),
            skipped=tuple(skipped),
        )
        report.write(out)
    return report


def _teachers(
    purchases: Sequence[PurchasedData], networks: Mapping[str, nn.Module], test_images: Tensor
) -> dict[str, Tensor | None]:
    """Return the teachers' log-probabilities for the test images, by endpoint, where known."""
    return {
        item.endpoint.name: teacher_log_probs(
            item, purchases, networks.get(item.endpoint.name), test_images
        )
        for item in purchases
    }


def _environment(device: torch.device, rows: Sequence[Row]) -> dict[str, str | None]:
    """Return the environment of this call, and other commits and threads of the rows."""
    found = describe_environment(device)
    now = {"commit": found["commit"], "threads": torch.get_num_threads()}
    for name, value in now.items():
        values = dict.fromkeys(getattr(row, name) for row in rows)
        if set(values) - {value}:
            texts = ("not noted" if each is None else str(each) for each in values)
            found[f"{name} of the rows"] = ", ".join(texts)
    return found
