"""The cost of the watch: microseconds in each request, and in the thread beside it.

python benchmarks/detection/hot_path.py
"""

import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from stingy_protection import build_policy, sanitize
from stingy_server import Database
from stingy_server.detection.image_hashes import HashIndex, ImageHasher, sampled
from stingy_server.detection.monitor import Watch
from stingy_server.observability.metrics import Metrics
from stingy_server.settings import WatchSettings

REQUESTS = 2000


def measure_requests(database: Database, *, side: int, batch: int) -> list[float]:
    """Measure the microseconds of each request, all of whose images the watch samples."""
    settings = WatchSettings(images_per_s=REQUESTS * batch)
    watch = Watch(database, settings=settings, metrics=Metrics())
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3)).astype(np.uint8)
    answer = sanitize(build_policy("stingy", num_classes=10), torch.randn(batch, 10))
    durations = []
    for _ in range(REQUESTS if batch == 1 else REQUESTS // 20):
        started = time.perf_counter()
        watch.action("key")
        watch.observe("key", "model", images, answer, 1.0)
        durations.append((time.perf_counter() - started) * 1e6)
    return durations


def measure_thread(*, side: int, images: int = 6144) -> float:
    """Measure the processor microseconds of an image once the index of a key is full."""
    hasher, index = ImageHasher(b"secret"), HashIndex()
    random = np.random.default_rng(0)
    durations = []
    for _ in range(images // 512):
        grids = sampled(random.integers(0, 256, (512, side, side, 3)).astype(np.uint8))
        started = time.thread_time()
        index.compare(grids, hasher.codes(grids), np.zeros(512, np.int32))
        durations.append((time.thread_time() - started) / 512 * 1e6)
    return statistics.median(durations[-4:])


def main() -> None:
    torch.set_num_threads(1)
    table = Table(
        "pixels", "images a request", "median us a request", "99 %", "thread: us an image"
    )
    with tempfile.TemporaryDirectory() as folder, closing(Database(Path(folder))) as database:
        for side, batch in ((8, 1), (32, 1), (224, 1), (32, 256)):
            durations = measure_requests(database, side=side, batch=batch)
            table.add_row(
                f"{side}x{side}",
                str(batch),
                f"{statistics.median(durations):.1f}",
                f"{statistics.quantiles(durations, n=100)[98]:.1f}",
                f"{measure_thread(side=side):.0f}" if batch == 1 else "",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
