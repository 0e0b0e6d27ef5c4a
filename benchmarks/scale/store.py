"""Measure how many requests a second the store carries, for three ways to write to it.

    python benchmarks/scale/store.py [--seconds 2] [--processes 1 4 16] [--out FILE]

For each request a process looks up the key, charges one image, and appends an entry to the ledger.
All processes share one budget, which is the worst case. There are three ways to write:

- *alone*: a transaction for each charge and each entry.
- *group*: 16 requests to a transaction, as the server does in one turn of its event loop.
- *lease*: as *group*, but a process charges a block of images at once and spends it by itself.

After every run the images granted by the processes must equal those charged in the store.
PostgreSQL is Debian's and is started here. Without it only SQLite is measured.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

from books import Books
from proctree import usage
from results import circumstances

from postgres import postgres, programs

GROUP = 16
BLOCK = 1000
BUDGET = 2**40
HEAD = (
    "| store | way | processes | requests/s | p50 ms | p99 ms | CPU-ms a request: processes | "
    "store |"
)
RULE = "|---|---|---|---|---|---|---|---|"
OpenBooks = Callable[[], Books]


@dataclass(frozen=True)
class Sample:
    """A measurement of one store, way and number of processes. Latencies are of one group."""

    store: str
    way: str
    processes: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    process_cpu_ms: float
    store_cpu_ms: float | None


def work(open_books: OpenBooks, way: str, start: float, seconds: float, results: Any) -> None:
    """Write requests in one process until the time is over.

    Args:
        way: "alone", "group" or "lease".
        start: when all processes start, in seconds of `time.time`.
        results: the queue for the number of requests, seconds of each group, CPU seconds and
            images granted.
    """
    group = 1 if way == "alone" else GROUP
    done = granted = leased = 0
    times = []
    with closing(open_books()) as books:
        time.sleep(max(0.0, start - time.time()))
        before = sum(os.times()[:2])
        while time.time() < start + seconds:
            began = time.perf_counter()
            books.look_up(group)
            if way == "lease":
                if leased < group:
                    leased += BLOCK * books.charge(1, BLOCK)
                leased -= group
                granted += group
            else:
                granted += books.charge(group)
            books.record(group)
            times.append(time.perf_counter() - began)
            done += group
        results.put((done, times, sum(os.times()[:2]) - before, granted + leased))


def measure(
    store: str,
    open_books: OpenBooks,
    way: str,
    processes: int,
    seconds: float,
    *,
    server: int | None,
) -> Sample:
    """Run a number of processes on one budget.

    Args:
        server: the process of PostgreSQL, or None for SQLite.

    Raises:
        ArithmeticError: the images charged differ from those granted.
    """
    # A spawned process would import for longer than it runs.
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with closing(open_books()) as books:
        charged = -books.used()
    cpu = -usage(server).cpu_s if server else 0.0
    start = time.time() + 0.5
    workers = [
        context.Process(target=work, args=(open_books, way, start, seconds, results))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=seconds + 120) for _ in workers]
    for worker in workers:
        worker.join()
    cpu += usage(server).cpu_s if server else 0.0
    with closing(open_books()) as books:
        charged += books.used()
    granted = sum(one[3] for one in found)
    if granted != charged:
        raise ArithmeticError(f"expected {granted} images charged, got {charged}")
    done = sum(one[0] for one in found)
    times = sorted(1000 * each for one in found for each in one[1])
    return Sample(
        store=store,
        way=way,
        processes=processes,
        requests_per_s=done / seconds,
        p50_ms=times[len(times) // 2],
        p99_ms=times[int(len(times) * 0.99)],
        process_cpu_ms=1000 * sum(one[2] for one in found) / done,
        store_cpu_ms=1000 * cpu / done if server else None,
    )


def row(sample: Sample) -> str:
    store = "-" if sample.store_cpu_ms is None else f"{sample.store_cpu_ms:.3f}"
    return (
        f"| {sample.store} | {sample.way} | {sample.processes} | {sample.requests_per_s:.0f} | "
        f"{sample.p50_ms:.2f} | {sample.p99_ms:.1f} | {sample.process_cpu_ms:.3f} | {store} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--out", type=Path, help="file for the samples, as JSON")
    options = parser.parse_args()
    about = circumstances()
    stores: list[tuple[str, OpenBooks, int | None]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        key = Books.prepare(folder, BUDGET)
        stores.append(("SQLite", partial(Books, folder, *key), None))
        if (found := programs()) is not None:
            running = stack.enter_context(postgres(found))
            about["postgresql"] = (running.data / "PG_VERSION").read_text().strip()
            store = running.address()
            key = Books.prepare(folder, BUDGET, store=store)
            for durable in (True, False):
                open_books = partial(Books, folder, *key, store=store, durable=durable)
                name = f"PostgreSQL, commit {'waits for the disk' if durable else 'does not wait'}"
                stores.append((name, open_books, running.pid))
        samples = [
            measure(name, open_books, way, processes, options.seconds, server=pid)
            for name, open_books, pid in stores
            for way in ("alone", "group", "lease")
            for processes in options.processes
        ]
        sizes = {}
        for name, open_books, _ in stores[:2]:
            with closing(open_books()) as books:
                sizes[name.partition(",")[0]] = round(books.entry_bytes())
        about["bytes_an_entry"] = sizes
    print("\n".join([json.dumps(about), HEAD, RULE, *map(row, samples)]))  # noqa: T201
    if options.out:
        document = {**about, "samples": [asdict(sample) for sample in samples]}
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
