"""The watch: a thread that scores keys for extraction of the model.

A request leaves references to its images. Once a second the thread compares a fair part of them and
writes one small row a key. It reads the keys in alarm from the rows of all processes.
"""

import contextlib
import logging
import random
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator

import numpy as np

from stingy_protection import SparseLogits
from stingy_server.codec.images import Pixels
from stingy_server.detection.fair_sample import (
    FairSample,
    KeySample,
    cut_to_shares,
    reduce_images,
)
from stingy_server.detection.image_hashes import BatchStats, HashIndex, ImageHasher
from stingy_server.detection.key_profiles import Action, KeyProfileStore, Observation
from stingy_server.errors import INTERNAL, RATE_LIMITED, TOO_MANY_IMAGES, ServiceError
from stingy_server.observability.metrics import SCORE_BOUNDS, Metrics
from stingy_server.settings import WatchSettings
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import Database

log = logging.getLogger("stingy")
_random = random.Random()  # noqa: S311

EVERY_S = 1.0
KEYS = 256  # keys with an index of their images; the index that is idle for longest is dropped


class Watch:
    """The watch of one process over all its keys.

    Args:
        database: the state. The thread opens it a second time for itself.
        settings: the alarm, its actions, and the number of images compared.
        metrics: the gauges to set.

    Attributes:
        failed: whether the thread has ended before `close`.
    """

    def __init__(self, database: Database, *, settings: WatchSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._database = database
        self._metrics = metrics
        self._hasher = ImageHasher(database.pepper)
        self._indexes: OrderedDict[str, HashIndex] = OrderedDict()
        self._firsts: dict[str, int] = {}  # for each model, the number of its first class
        self._classes = 0
        self._lock = threading.Lock()  # over the state that requests and the thread share
        self._run_lock = threading.Lock()  # one run at a time
        self._sample = FairSample(settings.images_per_s, self._hasher)
        self._unwatched: Counter[str] = Counter()
        self._actions: dict[str, Action] = {}
        self._closing = False
        self._wake = threading.Event()
        self.failed = False
        self._thread: threading.Thread | None = None

    def restore(self) -> None:
        """Read the actions of earlier alarms.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        self._actions = KeyProfileStore(self._database).actions()

    def start(self) -> None:
        """Start the thread, which runs once a second."""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Run one last time and end the thread."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def action(self, key: str) -> Action:
        """Return the action of an alarm on a key. Other processes' actions come up to 1 s later.

        Raises:
            ServiceError: internal, if the watch has failed, because no request is answered
                unwatched.
        """
        if self.failed:
            raise ServiceError(INTERNAL)
        return self._actions.get(key, Action.NONE)

    def reserve(self, key: str, images: int) -> None:
        """Count images that will be answered against `max_unwatched`, if it is set.

        Each image stays counted until a run has compared it or passed it over, or until `release`.

        Raises:
            ServiceError: rate_limited, if more images of the key would wait than allowed;
                too_large, if one request has more.
        """
        most = self._settings.max_unwatched
        if most is None:
            return
        if images > most:
            raise ServiceError(TOO_MANY_IMAGES, limit=most)
        with self._lock:
            if self._unwatched[key] + images > most:
                raise ServiceError(RATE_LIMITED, retry_after=1)
            self._unwatched[key] += images

    def release(self, key: str, images: int) -> None:
        """Undo `reserve` for images that got no answer."""
        if self._settings.max_unwatched is not None:
            with self._lock:
                self._forget(key, images)

    def observe(
        self, key: str, model: str, images: Pixels, answer: SparseLogits, bits: float
    ) -> None:
        """Queue an answered batch for the thread. This runs in every request.

        Args:
            key: the key's id.
            model: the name of the model.
            images: pixels, [batch, height, width, 3]. They must not change later.
            answer: the answers to these images.
            bits: the leak meter's bits over the answers.
        """
        with self._lock:
            if self._sample.add(key, model, images, answer, bits):
                self._wake.set()

    def run_once(self, database: Database) -> None:
        """Compare the images queued since the last run, and read the actions of all processes.

        Raises:
            StoreUnavailable: if the rows cannot be written or read.
        """
        with self._run_lock:
            with self._lock:
                taken = self._sample.take()
            cut_to_shares(taken, self._settings.images_per_s)
            profiles = KeyProfileStore(database)
            ladder = [Action(name) for name in self._settings.ladder]
            try:
                for key, sample in taken.items():
                    observation = self._compare(key, sample)
                    profiles.add(key, observation, alarm=self._settings.alarm, ladder=ladder)
                self._actions = profiles.actions()
            finally:
                with self._lock:
                    for key, sample in taken.items():
                        self._forget(key, sample.images)
            self._metrics.set_watch_gauges(
                Counter(self._actions.values()), profiles.scores(SCORE_BOUNDS)
            )

    def _forget(self, key: str, images: int) -> None:
        """Count images as no longer unwatched. The caller has the lock."""
        self._unwatched[key] -= images
        if self._unwatched[key] <= 0:
            del self._unwatched[key]

    def _compare(self, key: str, sample: KeySample) -> Observation:
        index = self._indexes.setdefault(key, HashIndex())
        self._indexes.move_to_end(key)
        if len(self._indexes) > KEYS:
            self._indexes.popitem(last=False)
        reduce_images(sample.chosen, self._hasher)
        classes: dict[str, tuple[int, Counter[int]]] = {}
        numbers = []
        for image in sample.chosen:
            top1 = image.top1
            classes.setdefault(image.model, (image.answer.num_classes, Counter()))[1][top1] += 1
            numbers.append(self._first_class(image.model, image.answer.num_classes) + top1)
        thumbnails = [image.thumbnail for image in sample.chosen if image.thumbnail is not None]
        stats = BatchStats(0, 0, 0, b"")
        if thumbnails:
            digests = np.array([image.digest for image in sample.chosen], np.uint64)
            codes = self._hasher.codes(thumbnails)
            stats = index.compare(digests, codes, np.array(numbers, np.int32))
        return Observation(
            images=sample.images,
            bits=sample.bits,
            novel=stats.novel,
            near=stats.near,
            repeats=stats.repeats,
            distances=stats.distances,
            classes=classes,
        )

    def _first_class(self, model: str, size: int) -> int:
        """Return the number of a model's first class among the classes of all models."""
        if model not in self._firsts:
            self._firsts[model] = self._classes
            self._classes += size
        return self._firsts[model]

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._mark_end)
            database: Database | None = None
            while not self._closing:
                with _store_failures_logged():
                    if database is None:
                        database = self._database.reopen()
                        stack.callback(database.close)
                # The time between runs is random, so that no client can query between them.
                self._wait(EVERY_S * _random.uniform(1, 1.5))
                with _store_failures_logged():
                    if database is not None:
                        self.run_once(database)

    def _wait(self, seconds: float) -> None:
        """Wait until the next run or `close`. Reduce images meanwhile if many pixels wait."""
        until = time.monotonic() + seconds
        while (remaining := until - time.monotonic()) > 0 and self._wake.wait(remaining):
            self._wake.clear()
            if self._closing:  # read after `clear`, which may undo the `set` of `close`
                return
            with self._lock:
                waiting = self._sample.waiting()
            reduce_images(waiting, self._hasher)

    def _mark_end(self) -> None:
        self.failed = not self._closing


@contextlib.contextmanager
def _store_failures_logged() -> Iterator[None]:
    """Log a failure of the store. The next run tries again."""
    try:
        yield
    except StoreUnavailable as error:
        log.error("the watch cannot use the store: %s", error)
