"""OpenTelemetry, where it is asked for: a span a request and, inside it, one of the model.

The spans are made once the request has ended, from what its visit knows, so that the way of a
request is the same with and without them. They say what the ledger says, and no key.
"""

import time
from typing import Protocol

from stingy_server.errors import ConfigurationError
from stingy_server.observability.request_record import Visit


class Tracing(Protocol):
    """Whoever is told of requests that have ended."""

    def tell(self, visit: Visit, status: int) -> None:
        """A request has ended with this status."""

    def close(self) -> None:
        """Send what is left."""


class NoTracing:
    """Nobody is told."""

    def tell(self, visit: Visit, status: int) -> None:
        """Forget it."""

    def close(self) -> None:
        """There is nothing left."""


class OpenTelemetry:
    """Spans for a collector that takes OTLP over HTTP.

    Args:
        endpoint: where it takes spans, such as http://127.0.0.1:4318/v1/traces.
        share: of all requests, 0..1, how many are told of.

    Raises:
        ConfigurationError: the extra is not installed.
    """

    def __init__(self, endpoint: str, *, share: float) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
        except ModuleNotFoundError:
            raise ConfigurationError(
                ["trace_endpoint: expected the extra otel; pip install 'stingy[otel]'"]
            ) from None
        self._provider = TracerProvider(
            sampler=TraceIdRatioBased(share), resource=Resource.create({"service.name": "stingy"})
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._tracer = self._provider.get_tracer("stingy")
        self._inside = trace.set_span_in_context

    def tell(self, visit: Visit, status: int) -> None:
        # The visit keeps the clock that never jumps; spans want nanoseconds since 1970.
        offset = time.time() - time.perf_counter()
        span = self._tracer.start_span(
            visit.event,
            start_time=_nanoseconds(visit.started + offset),
            attributes={
                "stingy.request": visit.request_id,
                "stingy.model": visit.model,
                "stingy.images": visit.images,
                "stingy.leak_bits": visit.bits,
                "http.response.status_code": status,
            },
        )
        if visit.asked is not None and visit.told is not None:
            self._tracer.start_span(
                "model",
                context=self._inside(span),
                start_time=_nanoseconds(visit.asked + offset),
            ).end(_nanoseconds(visit.told + offset))
        span.end(_nanoseconds(time.time()))

    def close(self) -> None:
        self._provider.shutdown()


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
