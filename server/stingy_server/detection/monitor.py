"""Who copies the model? What keys ask is looked at beside the way of a request, never on it.

A request pays for a copy of a few samples; a thread looks at them once a second, writes one small
row a key, and learns from the other processes' rows what an alarm has done to which key.
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
from stingy_server.detection.image_hashes import Coder, Grid, Memory, sampled
from stingy_server.detection.key_profiles import Gained, Standings, Step
from stingy_server.errors import INTERNAL, ServiceError
from stingy_server.observability.metrics import SCORE_BOUNDS, Metrics
from stingy_server.settings import WatchSettings
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import Database

log = logging.getLogger("stingy")

EVERY_S = 1.0
KEYS = 256  # whose images are remembered; of the rest, those unheard of for longest are forgotten


class _Seen:
    """What has been asked with one key since the last round."""

    def __init__(self) -> None:
        self.images = 0
        self.bits = 0.0
        self.samples: list[tuple[str, int, Grid, npt.NDArray[np.int64]]] = []


class Watch:
    """The watch of one process over all its keys.

    Args:
        database: which the thread opens once more for itself.

    Attributes:
        failed: whether the thread has ended before its time.

    Raises:
        StoreUnavailable: the steps that keys have taken cannot be read.
    """

    def __init__(self, database: Database, *, settings: WatchSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._database = database
        self._metrics = metrics
        self._coder = Coder(database.pepper)
        self._memories: OrderedDict[str, Memory] = OrderedDict()
        self._firsts: dict[str, int] = {}  # by model, the number of its first class
        self._classes = 0
        self._lock = threading.Lock()  # over what the requests and the thread both touch
        self._rounds = threading.Lock()  # one round at a time
        self._seen: dict[str, _Seen] = {}
        self._room = settings.images_per_s
        self._steps = Standings(database).steps()
        self._closing = threading.Event()
        self.failed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look once a second."""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look a last time and end."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def step(self, key: str) -> Step:
        """What an alarm has done to a key; of another process, up to a second ago.

        Raises:
            ServiceError: internal, where the watch has failed: nobody is answered unwatched.
        """
        if self.failed:
            raise ServiceError(INTERNAL)
        return self._steps.get(key, Step.NONE)

    def see(self, key: str, model: str, images: Pixels, answer: SparseLogits, bits: float) -> None:
        """Take note of a batch that was answered; the hot path's share of the watch.

        Args:
            images: [batch, height, width, 3].
        """
        count = len(images)
        with self._lock:
            seen = self._seen.get(key)
            if seen is None:
                seen = self._seen[key] = _Seen()
            seen.images += count
            seen.bits += bits
            room = self._room
            if room <= 0:
                return
            top1 = answer.indices.numpy()[:, 0]
            if count > room:  # a stretch of the batch, from where nobody can tell
                start = random.randrange(count - room + 1)  # noqa: S311
                images, top1 = images[start : start + room], top1[start : start + room]
            self._room = room - len(images)
            seen.samples.append((model, answer.num_classes, sampled(images), top1.copy()))

    def round(self, database: Database) -> None:
        """Look at what was asked since the last round, and at what other processes did.

        Raises:
            StoreUnavailable: the rows cannot be written or read.
        """
        with self._rounds:
            with self._lock:
                taken, self._seen = self._seen, {}
                self._room = self._settings.images_per_s
            standings = Standings(database)
            ladder = [Step(name) for name in self._settings.ladder]
            for key, seen in taken.items():
                gained = self._look(key, seen)
                standings.add(key, gained, alarm=self._settings.alarm, ladder=ladder)
            self._steps = standings.steps()
            self._metrics.watched(Counter(self._steps.values()), standings.scores(SCORE_BOUNDS))

    def _look(self, key: str, seen: _Seen) -> Gained:
        memory = self._memories.setdefault(key, Memory())
        self._memories.move_to_end(key)
        if len(self._memories) > KEYS:
            self._memories.popitem(last=False)
        classes: dict[str, tuple[int, Counter[int]]] = {}
        for model, size, _, top1 in seen.samples:
            classes.setdefault(model, (size, Counter()))[1].update(top1.tolist())
        looks = [
            memory.look(grids, self._coder.codes(grids), labels)
            for grids, labels in self._batches(seen)
        ]
        return Gained(
            images=seen.images,
            bits=seen.bits,
            novel=sum(look.novel for look in looks),
            near=sum(look.near for look in looks),
            repeats=sum(look.repeats for look in looks),
            distances=b"".join(look.distances for look in looks),
            classes=classes,
        )

    def _batches(self, seen: _Seen) -> Sequence[tuple[Grid, npt.NDArray[np.int32]]]:
        """Samples of one size together, with a number for the model and class of each."""
        by_size: defaultdict[tuple[int, ...], list[tuple[Grid, npt.NDArray[np.int64]]]]
        by_size = defaultdict(list)
        for model, size, grids, top1 in seen.samples:
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
        with contextlib.ExitStack() as ending:
            ending.callback(self._ended)
            database: Database | None = None
            last = False
            while not last:
                with _told():
                    if database is None:
                        database = self._database.again()
                        ending.callback(database.close)
                # When it looks is left to chance a little, so that nobody can ask around it.
                last = self._closing.wait(EVERY_S * random.uniform(1, 1.5))  # noqa: S311
                with _told():
                    if database is not None:
                        self.round(database)

    def _ended(self) -> None:
        self.failed = not self._closing.is_set()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A store that is gone for a while is tried again."""
    try:
        yield
    except StoreUnavailable as error:
        log.error("the watch: %s", error)
