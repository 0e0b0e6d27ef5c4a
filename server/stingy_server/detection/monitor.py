"""The watch: a thread that scores keys for extraction of the model.

A request only copies a few samples of its images. Once a second the thread compares the samples and
writes one small row a key. It reads the keys in alarm from the rows of all processes.
"""

import contextlib
import logging
import random
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from stingy_protection import SparseLogits
from stingy_server.codec.images import Pixels
from stingy_server.detection.image_hashes import Grid, HashIndex, ImageHasher, sampled
from stingy_server.detection.key_profiles import Action, KeyProfileStore, Observation
from stingy_server.errors import INTERNAL, ServiceError
from stingy_server.observability.metrics import SCORE_BOUNDS, Metrics
from stingy_server.settings import WatchSettings
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import Database

log = logging.getLogger("stingy")

EVERY_S = 1.0
KEYS = 256  # keys with an index of their images; the index that is idle for longest is dropped


class _Pending:
    """The answered batches of one key that the thread has not compared yet."""

    def __init__(self) -> None:
        self.images = 0
        self.bits = 0.0
        self.samples: list[tuple[str, int, Grid, npt.NDArray[np.int64]]] = []


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
        self._pending: dict[str, _Pending] = {}
        self._room = settings.images_per_s
        self._actions: dict[str, Action] = {}
        self._closing = threading.Event()
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
        self._closing.set()
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

    def observe(
        self, key: str, model: str, images: Pixels, answer: SparseLogits, bits: float
    ) -> None:
        """Queue an answered batch for the thread. This runs in every request.

        Args:
            key: the key's id.
            model: the name of the model.
            images: pixels, [batch, height, width, 3].
            answer: the answers to these images.
            bits: the leak meter's bits over the answers.
        """
        count = len(images)
        with self._lock:
            pending = self._pending.get(key)
            if pending is None:
                pending = self._pending[key] = _Pending()
            pending.images += count
            pending.bits += bits
            room = self._room
            if room <= 0:
                return
            top1 = answer.indices.numpy()[:, 0]
            if count > room:  # a random part of the batch, unknown to clients
                start = random.randrange(count - room + 1)  # noqa: S311
                images, top1 = images[start : start + room], top1[start : start + room]
            self._room = room - len(images)
            pending.samples.append((model, answer.num_classes, sampled(images), top1.copy()))

    def run_once(self, database: Database) -> None:
        """Compare the images queued since the last run, and read the actions of all processes.

        Raises:
            StoreUnavailable: if the rows cannot be written or read.
        """
        with self._run_lock:
            with self._lock:
                taken, self._pending = self._pending, {}
                self._room = self._settings.images_per_s
            profiles = KeyProfileStore(database)
            ladder = [Action(name) for name in self._settings.ladder]
            for key, pending in taken.items():
                observation = self._compare(key, pending)
                profiles.add(key, observation, alarm=self._settings.alarm, ladder=ladder)
            self._actions = profiles.actions()
            self._metrics.set_watch_gauges(
                Counter(self._actions.values()), profiles.scores(SCORE_BOUNDS)
            )

    def _compare(self, key: str, pending: _Pending) -> Observation:
        index = self._indexes.setdefault(key, HashIndex())
        self._indexes.move_to_end(key)
        if len(self._indexes) > KEYS:
            self._indexes.popitem(last=False)
        classes: dict[str, tuple[int, Counter[int]]] = {}
        for model, size, _, top1 in pending.samples:
            classes.setdefault(model, (size, Counter()))[1].update(top1.tolist())
        stats = [
            index.compare(grids, self._hasher.codes(grids), labels)
            for grids, labels in self._batches(pending)
        ]
        return Observation(
            images=pending.images,
            bits=pending.bits,
            novel=sum(batch.novel for batch in stats),
            near=sum(batch.near for batch in stats),
            repeats=sum(batch.repeats for batch in stats),
            distances=b"".join(batch.distances for batch in stats),
            classes=classes,
        )

    def _batches(self, pending: _Pending) -> Sequence[tuple[Grid, npt.NDArray[np.int32]]]:
        """Join samples of one size. Return them with a number for the model and class of each."""
        by_size: defaultdict[tuple[int, ...], list[tuple[Grid, npt.NDArray[np.int64]]]]
        by_size = defaultdict(list)
        for model, size, grids, top1 in pending.samples:
            if model not in self._firsts:
                self._firsts[model] = self._classes
                self._classes += size
            by_size[grids.shape[1:]].append((grids, top1 + self._firsts[model]))
        return [
            (
                np.concatenate([grids for grids, _ in parts]),
                np.concatenate([labels for _, labels in parts]).astype(np.int32),
            )
            for parts in by_size.values()
        ]

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._mark_end)
            database: Database | None = None
            last = False
            while not last:
                with _store_failures_logged():
                    if database is None:
                        database = self._database.reopen()
                        stack.callback(database.close)
                # The time between runs is random, so that no client can query between them.
                last = self._closing.wait(EVERY_S * random.uniform(1, 1.5))  # noqa: S311
                with _store_failures_logged():
                    if database is not None:
                        self.run_once(database)

    def _mark_end(self) -> None:
        self.failed = not self._closing.is_set()


@contextlib.contextmanager
def _store_failures_logged() -> Iterator[None]:
    """Log a failure of the store. The next run tries again."""
    try:
        yield
    except StoreUnavailable as error:
        log.error("the watch cannot use the store: %s", error)
