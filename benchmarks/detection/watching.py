"""A watch in this process that looks at streams of images, for the benchmarks of detection."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from stingy_protection import build_policy, sanitize
from stingy_server import Database
from stingy_server.detection.key_profiles import KeyProfile, KeyProfileStore
from stingy_server.detection.monitor import Watch
from stingy_server.observability.metrics import Metrics
from stingy_server.settings import WatchSettings

Images = npt.NDArray[np.uint8]


@dataclass
class Watching:
    """A watch that suspends, with its state."""

    database: Database
    watch: Watch

    def answer(self, key: str, images: Images) -> None:
        """Show the watch a batch that was answered."""
        logits = torch.zeros(len(images), 10)
        answer = sanitize(build_policy("stingy", num_classes=10), logits)
        self.watch.observe(key, "model", images, answer, 1.0)

    def look(self, key: str) -> KeyProfile:
        """Run the watch once, and return the key's profile."""
        self.watch.run_once(self.database)
        return KeyProfileStore(self.database).get(key)


@contextlib.contextmanager
def watching() -> Iterator[Watching]:
    """Open a watch on a temporary state."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Database(Path(folder))) as database,
    ):
        settings = WatchSettings(then="refuse")
        yield Watching(database, Watch(database, settings=settings, metrics=Metrics()))


def suspended_after(
    images: Images, *, each_look: int = 25, flood: Images | None = None
) -> tuple[int | None, KeyProfile]:
    """Send images one a request. Return the number at which the key is suspended, or None.

    Args:
        images: [images, height, width, 3].
        each_look: images between two runs of the watch.
        flood: a batch of another key before each run.
    """
    profile = KeyProfile("key")
    with watching() as watched:
        for start in range(0, len(images), each_look):
            if flood is not None:
                for _ in range(4):
                    watched.answer("flood", flood)
            part = images[start : start + each_look]
            for image in part:
                watched.answer("key", image[None])
            profile = watched.look("key")
            if profile.action != "none":
                return start + len(part), profile
    return None, profile
