"""What the server counts for Prometheus. Labels come from the configuration, never from a request.

Counters say how much was asked and refused; none says what was seen in an image.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from stingy_server.observability.request_record import RequestRecord

LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
WATCH_STEPS = ("alarm", "labels", "refuse")
SCORE_BOUNDS = (0.25, 0.5, 0.9, 1.0)
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "stingy_requests_total",
            "Requests with a valid key, by what became of them.",
            ("model", "event"),
            registry=self.registry,
        )
        self._unauthenticated = Counter(
            "stingy_unauthenticated_total",
            "Requests without a valid key.",
            registry=self.registry,
        )
        self._images = Counter(
            "stingy_images_answered_total", "Images answered.", ("model",), registry=self.registry
        )
        self._bits = Counter(
            "stingy_leak_bits_total",
            "Bits the leak meter read over all answers.",
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

        # Every process reads the same rows of all keys: the latest to tell is right.
        self._watched = Gauge(
            "stingy_watch_keys",
            "Keys that an alarm has done something to, by what.",
            ("step",),
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self._scores = Gauge(
            "stingy_watch_scores",
            "Keys whose score is at most this, 0 to 1; the more, the more like copying.",
            ("at_most",),
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self.watched({}, [0] * len(SCORE_BOUNDS))
        # Finding a labelled counter costs more than counting; there are few, and none goes away.
        self._request_of = functools.cache(self._requests.labels)
        self._answers_of = functools.cache(self._answers)

    def watched(self, steps: Mapping[str, int], scores: Sequence[int]) -> None:
        """How many keys stand where, of all processes together."""
        for step in WATCH_STEPS:
            self._watched.labels(step).set(steps.get(step, 0))
        for bound, keys in zip(SCORE_BOUNDS, scores, strict=True):
            self._scores.labels(str(bound)).set(keys)

    def count(self, record: RequestRecord, *, seconds: float) -> None:
        """A request has ended."""
        if record.key is None:
            self._unauthenticated.inc()
            return
        model = record.model
        self._request_of(model, record.event).inc()
        if record.answered:
            images, bits, latency = self._answers_of(model)
            images.inc(record.answered)
            bits.inc(record.bits)
            latency.observe(seconds)

    def _answers(self, model: str) -> tuple[Counter, Counter, Histogram]:
        return self._images.labels(model), self._bits.labels(model), self._seconds.labels(model)


def share_between_processes(folder: Path) -> None:
    """Let the processes started from here on count together; before any counter is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob("*.db"):
        left_over.unlink()
    os.environ[MULTIPROCESS_DIR] = str(folder)


def forget_work_of(pid: int) -> None:
    """What a process that has ended was working on is worked on no more; its counts stay."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def listen(host: str, port: int, *, registry: CollectorRegistry | None) -> None:
    """Answer Prometheus on a port of its own, for these counters or, with None, all processes'."""
    if registry is None:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    start_http_server(port, addr=host, registry=registry)
