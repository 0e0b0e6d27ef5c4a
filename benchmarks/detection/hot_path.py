"""Time the watch: microseconds within a request, and of the thread that compares images.

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
from stingy_server.detection.image_hashes import HashIndex, ImageHasher
from stingy_server.detection.monitor import Watch
from stingy_server.observability.metrics import Metrics
from stingy_server.settings import WatchSettings

REQUESTS = 1000


def time_requests(database: Database, *, side: int, batch: int) -> list[float]:
    """Return microseconds of each request beside the thread."""
    watch = Watch(database, settings=WatchSettings(), metrics=Metrics())
    watch.start()
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3)).astype(np.uint8)
    answer = sanitize(build_policy("stingy", num_classes=10), torch.randn(batch, 10))
    taken = []
    for _ in range(REQUESTS if batch == 1 else REQUESTS // 4):
        started = time.perf_counter()
        watch.action("key")
        watch.observe("key", "model", images, answer, 1.0)
        taken.append((time.perf_counter() - started) * 1e6)
        if len(taken) % 50 == 0:
            time.sleep(0.05)  # the thread keeps up, as below 1,000 images a second
    watch.close()
    return taken


def time_thread(*, side: int, images: int = 6144) -> float:
    """Return the thread's processor microseconds an image, once a key's index is full."""
    hasher, index = ImageHasher(b"secret"), HashIndex()
    random = np.random.default_rng(0)
    taken = []
    for _ in range(images // 512):
        images = random.integers(0, 256, (512, side, side, 3)).astype(np.uint8)
        started = time.thread_time()
        parts = [hasher.reduce(images[start : start + 8]) for start in range(0, 512, 8)]
        digests = np.concatenate([np.array(digests, np.uint64) for digests, _ in parts])
        codes = hasher.codes(np.concatenate([reduced for _, reduced in parts]))
        index.compare(digests, codes, np.zeros(512, np.int32))
        taken.append((time.thread_time() - started) / 512 * 1e6)
    return statistics.median(taken[-4:])


def main() -> None:
    torch.set_num_threads(1)
    table = Table(
        "pixels", "images a request", "median us a request", "99 %", "thread: us an image"
    )
    with tempfile.TemporaryDirectory() as folder, closing(Database(Path(folder))) as database:
        for side, batch in ((8, 1), (32, 1), (224, 1), (32, 256)):
            taken = time_requests(database, side=side, batch=batch)
            table.add_row(
                f"{side}x{side}",
                str(batch),
                f"{statistics.median(taken):.1f}",
                f"{statistics.quantiles(taken, n=100)[98]:.1f}",
                f"{time_thread(side=side):.0f}" if batch == 1 else "",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
