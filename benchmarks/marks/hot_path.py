"""Time what marks add to a request: of an honest key, and of a key whose answers are marked.

All times are processor time of this process.

python benchmarks/marks/hot_path.py
"""

import asyncio
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from stingy_protection import build_policy, sanitize
from stingy_server import Database
from stingy_server.inference.batch_queue import Job, flags_of
from stingy_server.inference.flags import mark
from stingy_server.marks.marker import Marker
from stingy_server.marks.secret import MarkSecret
from stingy_server.observability.metrics import Metrics
from stingy_server.observability.request_record import RequestRecord
from stingy_server.settings import MarkSettings, Tier
from stingy_server.store.group_commit import GroupCommit
from stingy_server.store.ledger import Ledger

SECRET = MarkSecret(b"x" * 32)


def best_of(call: Callable[[], object], number: int) -> float:
    """Return the microseconds of a call, the best of nine."""
    return min(timeit.repeat(call, number=number, repeat=9, timer=time.process_time)) / number * 1e6


async def time_marked(database: Database, side: int) -> list[float]:
    """Return microseconds: of a plan, of a marked row in the worker, of a row that is kept."""
    writes = GroupCommit(database)
    settings = MarkSettings(secret_file=Path("-"), share=0.1)
    marker = Marker(
        database,
        SECRET,
        settings=settings,
        writes=writes,
        ledger=Ledger(database),
        metrics=Metrics(),
    )
    marker.start()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (400, 1, side, side, 3)).astype(np.uint8)
    policy = build_policy("stingy", num_classes=10)
    record = RequestRecord("id", time.perf_counter())
    plans, marks, keeps = [], [], []
    for image in images:
        started = time.process_time()
        plan = await marker.plan("digits", image, num_classes=10)
        plans.append(time.process_time() - started)
        logits = torch.randn(1, 10)
        answer = sanitize(policy, logits)
        started = time.process_time()
        answer = mark(answer, plan.flags, policy=policy, logits=logits, noise=None)
        marks.append(time.process_time() - started)
        started = time.process_time()
        if not plan.kept:
            continue
        marker.keep(plan, record, image, answer, version="1")
        marker.write_waiting()
        await asyncio.sleep(0)  # the turn in which a file is written
        keeps.append(time.process_time() - started)
    await writes.flush()
    writes.close()
    return [statistics.median(each) * 1e6 for each in (plans, marks, keeps)]


def main() -> None:
    torch.set_num_threads(1)
    tier, jobs = Tier(), [Job(np.zeros((1, 8, 8, 3), np.uint8), None, "key")]  # type: ignore[arg-type]
    table = Table("honest key", "us")
    table.add_row("read of tier.mark", f"{best_of(lambda: tier.mark, 200_000):.3f}")
    table.add_row("empty call", f"{best_of(lambda: None, 200_000):.3f}")
    table.add_row(
        "flags_of a pass of one request", f"{best_of(lambda: flags_of(jobs), 100_000):.3f}"
    )
    Console().print(table)
    table = Table("marked key", "plan", "in the worker", "kept row")
    for side in (32, 224):
        with tempfile.TemporaryDirectory() as folder, closing(Database(Path(folder))) as database:
            row = asyncio.run(time_marked(database, side))
        table.add_row(f"{side}x{side}", *(f"{each:.0f}" for each in row))
    Console().print(table)


if __name__ == "__main__":
    main()
