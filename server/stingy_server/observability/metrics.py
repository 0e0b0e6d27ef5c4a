"""The server's metrics for Prometheus. Labels come from the settings, never from a request.

Counters measure how much was requested and refused. None describes the content of an image.
"""

import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import mark_process_dead

from stingy_server.observability.key_statistics import KeyStatistics
from stingy_server.observability.request_record import RequestRecord

LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
WATCH_STEPS = ("alarm", "mark", "labels", "refuse")
SCORE_BOUNDS = (0.25, 0.5, 0.9, 1.0)
DROP_REASONS = ("headless", "stranger", "customer", "handshake", "busy", "slow", "pipelined")
NOTICES = tuple(product(("key", "model", "key_model"), ("total", "day", "month"), ("80", "95")))
WEBHOOK_OUTCOMES = ("delivered", "failed", "dropped")
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
START = "start-"  # of the name of the folder in which one start counts


class Metrics:
    """The counters of one process.

    Attributes:
        statistics: what each key may read of its own requests. Prometheus does not get it.
    """

    def __init__(self) -> None:
        self.statistics = KeyStatistics()
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "stingy_requests_total",
            "Requests with a valid key, by outcome.",
            ("model", "event"),
            registry=self.registry,
        )
        self._unauthenticated = Counter(
            "stingy_unauthenticated_total",
            "Requests without a valid key.",
            registry=self.registry,
        )
        self._malformed = Counter(
            "stingy_malformed_requests_total",
            "Requests that break the rules of HTTP.",
            registry=self.registry,
        )
        self._dropped = Counter(
            "stingy_connections_dropped_total",
            "Connections that the server ended before the client did, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self._images = Counter(
            "stingy_images_answered_total", "Images answered.", ("model",), registry=self.registry
        )
        self._bits = Counter(
            "stingy_leak_bits_total",
            "The leak meter's bits over all answers.",
            ("model",),
            registry=self.registry,
        )
        self._notices = Counter(
            "stingy_budget_notices_total",
            "Budgets that were used to a share of their limit.",
            ("budget", "period", "percent"),
            registry=self.registry,
        )
        self._webhooks = Counter(
            "stingy_webhooks_total",
            "POSTs to the webhook, by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        self._marked = Counter(
            "stingy_marked_answers_total",
            "Images whose answer was marked.",
            ("model",),
            registry=self.registry,
        )
        self._evidence = Counter(
            "stingy_marks_kept_total",
            "Marked inputs and controls that were kept as evidence.",
            ("model",),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "stingy_request_seconds",
            "Seconds from the head of a request to the head of its answer.",
            ("model",),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "stingy_requests_in_flight",
            "Requests being worked on.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )

        # Every process reads the same rows of all keys, so the most recent value is right.
        self._watch_keys = Gauge(
            "stingy_watch_keys",
            "Keys that an alarm has acted on, by step.",
            ("step",),
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self._watch_scores = Gauge(
            "stingy_watch_scores",
            "Keys whose watch score, 0 to 1, is at most this.",
            ("at_most",),
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self.set_watch_gauges({}, [0] * len(SCORE_BOUNDS))
        self._start_at_zero()
        # The look-up of a labelled counter costs more than counting. The cache stays small, because
        # labels come from the settings.
        self._request_counter = functools.cache(self._requests.labels)
        self._answer_counters = functools.cache(self._find_answer_counters)

    def _start_at_zero(self) -> None:
        """Start the counters of rare events at 0, so that a query finds the first event.

        Prometheus cannot compute the increase of a series that begins at 1.
        """
        for reason in DROP_REASONS:
            self._dropped.labels(reason)
        for notice in NOTICES:
            self._notices.labels(*notice)
        for outcome in WEBHOOK_OUTCOMES:
            self._webhooks.labels(outcome)

    def set_watch_gauges(self, steps: Mapping[str, int], scores: Sequence[int]) -> None:
        """Set the gauges of the watch, which hold for all processes together.

        Args:
            steps: the number of keys by step.
            scores: the number of keys with a score of at most each of SCORE_BOUNDS.
        """
        for step in WATCH_STEPS:
            self._watch_keys.labels(step).set(steps.get(step, 0))
        for bound, keys in zip(SCORE_BOUNDS, scores, strict=True):
            self._watch_scores.labels(str(bound)).set(keys)

    def count(self, record: RequestRecord, *, seconds: float) -> None:
        """Count a request that has ended, after so many seconds."""
        if record.key is None:
            self._unauthenticated.inc()
            return
        model = record.model
        self._request_counter(model, record.event).inc()
        if record.query:
            self.statistics.count(record, seconds=seconds)
        if record.answered:
            images, bits, latency = self._answer_counters(model)
            images.inc(record.answered)
            bits.inc(record.bits)
            latency.observe(seconds)

    def count_malformed(self) -> None:
        """Count a request that breaks the rules of HTTP, and has no record."""
        self._malformed.inc()

    def count_drop(self, reason: str) -> None:
        """Count a connection that the server ended, by one of the reasons in docs/serve.md."""
        self._dropped.labels(reason).inc()

    def count_notice(self, budget: str, period: str, percent: int) -> None:
        """Count a budget that was used to a share of its limit.

        Args:
            budget: the kind of its owner: key, model or key_model.
            period: total, day or month.
            percent: the share.
        """
        self._notices.labels(budget, period, str(percent)).inc()

    def count_webhook(self, outcome: str) -> None:
        """Count a POST to the webhook: delivered, failed or dropped."""
        self._webhooks.labels(outcome).inc()

    def count_marked(self, model: str) -> None:
        """Count an image whose answer was marked."""
        self._marked.labels(model).inc()

    def count_evidence(self, model: str) -> None:
        """Count a marked input or a control that was kept."""
        self._evidence.labels(model).inc()

    def _find_answer_counters(self, model: str) -> tuple[Counter, Counter, Histogram]:
        return self._images.labels(model), self._bits.labels(model), self._seconds.labels(model)


@contextlib.contextmanager
def shared_between_processes(folder: Path) -> Iterator[None]:
    """Make processes that start inside the block count together.

    They count in a folder of this start alone, because another server may run on the same state.
    A lock shows that the start still runs. The folders of starts that have ended are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _locked(folder / "lock"):  # one start at a time, so that none removes a new folder
            for other in folder.glob(f"{START}*"):
                with contextlib.suppress(OSError), _locked(other / "lock", wait=False):
                    shutil.rmtree(other, ignore_errors=True)
            own = Path(tempfile.mkdtemp(prefix=START, dir=folder))
            stack.callback(shutil.rmtree, own, ignore_errors=True)
            stack.enter_context(_locked(own / "lock"))
        os.environ[MULTIPROCESS_DIR] = str(own)
        stack.callback(os.environ.pop, MULTIPROCESS_DIR, None)
        yield


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Lock a file until the block ends or the process dies.

    Raises:
        BlockingIOError: another process has the lock, and `wait` is false.
    """
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def drop_worker_gauges(pid: int) -> None:
    """Drop a dead worker's gauges; keep its counters."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]
