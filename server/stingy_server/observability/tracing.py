"""OpenTelemetry traces, if enabled: one span per request and, inside it, one for the model.

Spans are made from the record of a request after its end, so that tracing does not change how a
request is handled. A span contains what the ledger entry contains, and no key.
"""

import time
from typing import Protocol

from stingy_server.errors import ConfigurationError
from stingy_server.observability.request_record import RequestRecord
from stingy_server.settings import Settings


class Tracing(Protocol):
    """A receiver of requests that have ended."""

    def trace(self, record: RequestRecord, status: int) -> None:
        """Record a request that ended with this status."""

    def close(self) -> None:
        """Send the spans that are still queued."""


class NoTracing:
    """No tracing."""

    def trace(self, record: RequestRecord, status: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class OpenTelemetry:
    """Spans for a collector that takes OTLP over HTTP.

    Args:
        endpoint: the collector's address for spans, such as http://127.0.0.1:4318/v1/traces.
        share: the fraction of requests that are traced, 0..1.

    Raises:
        ConfigurationError: if the extra is not installed.
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
                ["trace_endpoint: expected the extra otel, got none; pip install 'stingy[otel]'"]
            ) from None
        self._provider = TracerProvider(
            sampler=TraceIdRatioBased(share), resource=Resource.create({"service.name": "stingy"})
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._tracer = self._provider.get_tracer("stingy")
        self._in_context = trace.set_span_in_context

    def trace(self, record: RequestRecord, status: int) -> None:
        # The record uses a monotonic clock; spans need nanoseconds since 1970.
        offset = time.time() - time.perf_counter()
        span = self._tracer.start_span(
            record.event,
            start_time=_nanoseconds(record.started + offset),
            attributes={
                "stingy.request": record.request_id,
                "stingy.model": record.model,
                "stingy.images": record.images,
                "stingy.leak_bits": record.bits,
                "http.response.status_code": status,
            },
        )
        if record.engine_started is not None and record.engine_finished is not None:
            self._tracer.start_span(
                "model",
                context=self._in_context(span),
                start_time=_nanoseconds(record.engine_started + offset),
            ).end(_nanoseconds(record.engine_finished + offset))
        span.end(_nanoseconds(time.time()))

    def close(self) -> None:
        self._provider.shutdown()


def open_tracing(settings: Settings) -> tuple[Tracing, list[str]]:
    """Start the traces that the settings name, if any. Return them, and the faults."""
    if settings.trace_endpoint is None:
        return NoTracing(), []
    try:
        return OpenTelemetry(settings.trace_endpoint, share=settings.trace_share), []
    except ConfigurationError as error:
        return NoTracing(), [*error.faults]


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
