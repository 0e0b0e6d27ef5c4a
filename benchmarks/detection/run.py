"""Measure how often the watch is right, with simulated customers and real audits.

    python benchmarks/detection/run.py [--out FOLDER] [--keys 20]

The benchmark trains a teacher on the digits and serves it in this process under the policy
`stingy`. Each customer and each audit has a key of its own. The table shows the watch's final
verdict on each kind.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import uvicorn
from rich.console import Console
from rich.table import Table

from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.runner import run_audit
from stingy_attacker_eval.datasets.datasets import Dataset, load_dataset
from stingy_attacker_eval.lab.teachers import TeacherSettings, train_teachers
from stingy_attacker_eval.oracle.oracle import Answers, HttpOracle, Oracle
from stingy_clients import Client, ModelInfo
from stingy_server import Database, Keys, ModelSettings, Settings, create_app
from stingy_server.detection.key_profiles import KeyProfile, KeyProfileStore
from stingy_server.detection.monitor import Watch

Images = npt.NDArray[np.uint8]
Customer = Callable[[Dataset, np.random.Generator], Iterator[Images]]

BUDGET = 10_000  # of every key
SEEDS = (0, 1)  # one audit for each
AUDITS: dict[str, dict[str, Any]] = {
    "natural images": {"name": "soft_label"},
    "active, by entropy": {"name": "active", "queries": 400},
    "other images (knockoff)": {"name": "knockoff", "queries": 1500},
    "views and mixtures": {"name": "augmentation_union", "views": 3},
    "moved views alone": {"name": "augmentation_union", "views": 2, "mixtures": False},
    "data-free, scores": {"name": "data_free_soft", "queries": 4000, "batch": 64},
    "data-free, labels": {"name": "data_free_hard", "queries": 4000, "batch": 64},
}


def slow_customer(data: Dataset, random: np.random.Generator) -> Iterator[Images]:
    """Yield 20 to 300 requests of one image, with uneven classes; 3 of 10 repeat an earlier one."""
    mix = random.dirichlet(np.full(data.num_classes, 0.5))
    queried: list[int] = []
    for _ in range(random.integers(20, 300)):
        if queried and random.random() < 0.3:
            queried.append(queried[random.integers(len(queried))])
        else:
            label = random.choice(data.num_classes, p=mix)
            queried.append(int(random.choice(np.flatnonzero(data.train_y == label))))
        yield data.train_x[queried[-1]][None]


def bulk_customer(data: Dataset, random: np.random.Generator) -> Iterator[Images]:
    """Yield a day's work at once: 1,000 different images of all classes alike, 50 a request."""
    order = random.permutation(len(data.train_x))[:1000]
    for start in range(0, len(order), 50):
        yield data.train_x[order[start : start + 50]]


def camera_customer(data: Dataset, random: np.random.Generator) -> Iterator[Images]:
    """Yield 20 scenes of 15 frames, one a request, with noise of up to 8 grey levels."""
    for scene in random.choice(len(data.train_x), 20):
        for _ in range(15):
            noise = random.integers(-8, 9, data.train_x[scene].shape)
            yield np.clip(data.train_x[scene] + noise, 0, 255).astype(np.uint8)[None]


CUSTOMERS: dict[str, Customer] = {
    "slow, with repeats": slow_customer,
    "bulk, all classes": bulk_customer,
    "fixed camera": camera_customer,
}


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[tuple[str, Watch]]:
    """Serve the application on a real socket, in a thread of this process."""
    ready = threading.Event()
    started: dict[str, Any] = {}

    def run() -> None:
        app = create_app(settings)  # here, because the database belongs to the thread that opens it
        config = uvicorn.Config(app, port=0, log_level="error", access_log=False)
        started["server"], started["app"] = uvicorn.Server(config), app
        ready.set()
        started["server"].run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    while not started["server"].started:
        time.sleep(0.05)
    port = started["server"].servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", started["app"].state.service.watch
    finally:
        started["server"].should_exit = True
        thread.join()


class PacedOracle:
    """An oracle that waits after each request until the watch has compared its images."""

    def __init__(self, oracle: Oracle, wait: Callable[[], None]) -> None:
        self._oracle = oracle
        self._wait = wait

    def describe(self) -> ModelInfo:
        return self._oracle.describe()

    def charged(self) -> int:
        return self._oracle.charged()

    def query(self, images: Images) -> Answers:
        answers = self._oracle.query(images)
        self._wait()
        return answers


def replay(data: Dataset, out: Path, *, keys: int) -> dict[str, list[KeyProfile]]:
    """Run every customer and audit with its own key and return their final profiles, by kind."""
    settings = Settings(
        models=(ModelSettings(bundle=out / "bundles" / "normal", name="digits"),),
        state=out / "state",
        device="cpu",
    )
    kinds: dict[str, list[str]] = {}
    with (
        serving(settings) as (url, watch),
        contextlib.closing(Database(settings.state)) as database,
    ):

        def key(kind: str) -> str:
            made, text = Keys(database).create(kind, budget=BUDGET)
            kinds.setdefault(kind, []).append(made.id)
            return text

        for number, (kind, customer) in enumerate(CUSTOMERS.items()):
            for seed in range(keys):
                with Client(url, key(f"customer: {kind}")) as client:
                    for images in customer(data, np.random.default_rng([number, seed])):
                        client.predict_tensor(images, model="digits")
                # A slow audit waits for the watch, so all of its images are compared.
                watch.run_once(database)
        for (kind, entry), slowly in itertools.product(AUDITS.items(), (True, False)):
            pace = "slow" if slowly else "fast"
            for seed in SEEDS:
                folder = out / "audits" / f"{entry['name']}-{len(kinds)}-{pace}-{seed}"
                with Client(url, key(f"{pace} audit: {kind}")) as client:
                    oracle: Oracle = HttpOracle(client, model="digits")
                    if slowly:
                        oracle = PacedOracle(oracle, lambda: watch.run_once(database))
                    run_audit(
                        _protocol(entry, seed=seed),
                        oracles={"digits": oracle},
                        out=folder,
                        console=Console(quiet=True),
                    )
        watch.run_once(database)
        profiles = KeyProfileStore(database)
        return {kind: [profiles.get(id_) for id_ in ids] for kind, ids in kinds.items()}


def _protocol(entry: dict[str, Any], *, seed: int) -> Protocol:
    return Protocol.model_validate(
        {
            "title": "Detection, reduced",
            "dataset": "digits",
            "budget": BUDGET,
            "epochs": 1,
            "students": ["cnn_tiny"],
            "seeds": [seed],
            "attacks": [entry],
            "endpoints": [{"name": "digits", "model": "digits", "defence": "stingy"}],
        },
        context={},
    )


def print_table(found: dict[str, list[KeyProfile]], console: Console) -> None:
    table = Table(
        "client",
        "keys",
        "images",
        "alarms",
        "at image",
        "score",
        "near-dup",
        "coverage",
        "W",
        "W < 0.9",
    )
    for kind, rows in found.items():
        raised = [row.since for row in rows if row.action != "none"]
        normal = [row.normality for row in rows if row.normality is not None]
        table.add_row(
            kind,
            str(len(rows)),
            _spread([row.images for row in rows], "{:.0f}"),
            f"{len(raised)} of {len(rows)}",
            f"{statistics.median(raised):.0f}" if raised else "",
            _spread([row.score for row in rows], "{:.2f}"),
            _spread([row.near_share for row in rows], "{:.3f}"),
            _spread([row.coverage for row in rows], "{:.2f}"),
            _spread(normal, "{:.2f}"),
            f"{sum(value < 0.9 for value in normal)} of {len(normal)}",
        )
    console.print(table)


def _spread(values: Sequence[float], form: str) -> str:
    """Format the median, the least and the most of some values."""
    if not values:
        return ""
    parts = (statistics.median(values), min(values), max(values))
    return "{} ({}-{})".format(*(form.format(value) for value in parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for all files; default: a temporary one")
    parser.add_argument("--keys", type=int, default=20, help="customers of each kind; default 20")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=190)
    with contextlib.ExitStack() as stack:
        out = arguments.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = load_dataset("digits")
        teacher, *_ = train_teachers(
            data, out=out / "bundles", settings=TeacherSettings(nasty=False)
        )
        started = time.perf_counter()
        found = replay(data, out, keys=arguments.keys)
        console.print(
            f"teacher: {teacher.accuracy:.1f} %; "
            f"{time.perf_counter() - started:.0f} s of queries and audits"
        )
        print_table(found, console)
        rows = {
            kind: [(row.images, row.since, row.action, round(row.score, 4)) for row in rows]
            for kind, rows in found.items()
        }
        (out / "detection.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
