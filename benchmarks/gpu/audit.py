"""An audit on one GPU: teachers, endpoints in process, several students at once.

    python benchmarks/gpu/audit.py table1_cifar10 --first paper_kd
    python benchmarks/gpu/audit.py frontier_cifar10 --teachers
    python benchmarks/gpu/audit.py frontier_cifar10 --seed 0

NAME is a protocol in protocols/, or one of the package. Finished work is kept, so the same command
continues where it was cut, as long as WORK exists. Runs that match `--first` come before the
others. RESULTS/NAME gets the rows, the configuration and the report. Bundles and bought answers
stay in WORK/NAME. With `--seed` the audit is that of one seed, in WORK/NAME/SEED, and nothing is
copied: `run.sh` packs it.
"""

import argparse
import os
import shutil
import signal
import sys
import tomllib
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import stage
import torch
from rich.console import Console

from stingy_attacker_eval.audit.executors import in_processes, in_turn
from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.runner import run_audit
from stingy_attacker_eval.lab.protocol_lab import protocol_networks, train_protocol_teachers
from stingy_attacker_eval.oracle.in_process import in_process_client
from stingy_attacker_eval.oracle.oracle import HttpOracle
from stingy_attacker_eval.report.analysis import read_audit
from stingy_attacker_eval.report.html import write_report
from stingy_attacker_eval.report.terminal import print_table
from stingy_server import Database, Keys, create_app, load_settings

PROTOCOLS = Path(__file__).with_name("protocols")
KEPT = ("rows.jsonl", "config.json", "report.json", "report.html")
IN_PROCESSES = ("table1_cifar10",)  # in a rehearsal; the others run in one process to save time
TINY = {"epochs": 1, "batch": 32, "milestones": []}
SMALLER = {"resnet18": "resnet8", "resnet34": "resnet8", "resnet50": "cnn_tiny"}
SMALLER |= {"shufflenetv2": "cnn_tiny", "mobilenetv2": "cnn_small", "resnext29": "cnn_small"}


def read_protocol(name: str) -> Protocol:
    """Read the stage's protocol; a rehearsal gets one epoch and small networks."""
    path = PROTOCOLS / f"{name}.toml"
    if not path.exists():
        path = Path(str(files("stingy_attacker_eval") / "protocols" / f"{name}.toml"))
    document = tomllib.loads(path.read_text())
    if stage.REHEARSED:
        _shrink(document)
    return Protocol.model_validate(document, context={})


def _shrink(document: dict[str, Any]) -> None:
    document |= TINY | {"students": [SMALLER.get(n, "cnn_tiny") for n in document["students"][:1]]}
    if "images" in document:
        document |= {"images": 80, "budgets": [40], "endpoints": document["endpoints"][:1]}
        document |= {"attackers": document["attackers"][::2]}
    for attacker in document.get("attackers", []):
        attacker |= {"labelled": 0.5} if "labelled" in attacker else {}
    for teacher in document["teachers"]:
        teacher |= TINY | {"network": SMALLER.get(teacher["network"], "cnn_small")}
        teacher |= {key: 80 for key in ("images", "skip") if key in teacher}
    for endpoint in document["endpoints"]:
        if "students" in endpoint:
            endpoint["students"] = [SMALLER[name] for name in endpoint["students"]]
    for attack in document["attacks"]:
        if isinstance(attack, dict):
            attack |= {"steps": 2, "batch": 8}


def run(protocol: Protocol, folder: Path, audit: Path, *, parallel: int, first: list[str]) -> None:
    """Train the teachers, serve them in this process, buy answers and train students.

    folder: has the bundles.
    audit: the folder of the audit.
    first: patterns of the runs to do first.

    Raises KeyboardInterrupt if the stage is cut. The finished rows are kept.
    """
    console = Console(stderr=True)
    bundles = folder / "bundles"
    state = f"{audit}-state"  # not the bundles' own, because several seeds run at once
    settings, faults = load_settings(bundles / "stingy.toml", batch_size=256, state=state)
    app = create_app(settings, faults=faults)
    with closing(Database(settings.state)) as database:
        _, key = Keys(database).create("audit", budget=len(protocol.endpoints) * protocol.budget)
    with in_process_client(app, key) as client:
        for only in ([first] if first and not stage.REHEARSED else []) + [[]]:
            run_audit(
                protocol,
                oracles={e.name: HttpOracle(client, model=e.model) for e in protocol.endpoints},
                out=audit,
                console=console,
                networks=protocol_networks(protocol, bundles=bundles),
                only=only,
                executor=in_processes(parallel) if parallel > 1 else in_turn,
            )
            write_report(audit)
    print_table(read_audit(audit), Console(width=140))


def train_teachers(protocol: Protocol, bundles: Path) -> None:
    """Train the teachers that are absent, and print their accuracy."""
    console = Console(stderr=True)
    for teacher in train_protocol_teachers(protocol, out=bundles, console=console):
        line = f"{teacher.name}: {teacher.accuracy:.2f} % in {teacher.seconds:.1f} s"
        console.print(line, highlight=False)


def copy_results(folder: Path, kept: Path, parallel: int) -> None:
    """Copy what an audit found, and what its teachers are."""
    for name in KEPT:
        if (folder / "audit" / name).exists():
            shutil.copy(folder / "audit" / name, kept / name)
    teachers = {
        path.parent.name: path.read_text()
        for path in sorted((folder / "bundles").glob("*/teacher.json"))
    }
    stage.write(f"{kept.name}/stage", teachers=teachers, parallel=parallel)


def main() -> int:
    parser = argparse.ArgumentParser(description="An audit on one GPU.")
    parser.add_argument("name", help="name of a protocol")
    parser.add_argument("--parallel", type=int, help="students at once, 5 by default")
    parser.add_argument("--first", nargs="*", default=[], help="patterns of the first runs")
    parser.add_argument("--teachers", action="store_true", help="train the teachers, and stop")
    parser.add_argument("--seed", type=int, help="the only seed; by default all of the protocol")
    arguments = parser.parse_args()
    default_parallel = 1 + (arguments.name in IN_PROCESSES) if stage.REHEARSED else 5
    parallel = arguments.parallel or default_parallel
    torch.set_num_threads(1)  # each student's process gets one, too
    # A stage is cut by SIGINT, which a shell's background jobs ignore by default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(os.environ["WORK"]) / arguments.name
    protocol = read_protocol(arguments.name)
    if arguments.seed is None:
        train_teachers(protocol, folder / "bundles")
    if arguments.teachers:
        return 0
    if arguments.seed is not None:
        one, audit = protocol.with_seeds([arguments.seed]), folder / str(arguments.seed)
        run(one, folder, audit, parallel=parallel, first=[])
        return 0
    kept = stage.results() / arguments.name
    kept.mkdir(parents=True, exist_ok=True)
    try:
        run(protocol, folder, folder / "audit", parallel=parallel, first=arguments.first)
    finally:
        copy_results(folder, kept, parallel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
