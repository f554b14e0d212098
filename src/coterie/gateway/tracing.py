"""OpenTelemetry's GenAI spans and metrics of requests (extra ``tracing``).

Names are those of the semantic conventions for generative AI as of 2026, still in development:
https://github.com/open-telemetry/semantic-conventions-genai
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.errors import CoterieError
from coterie.gateway.entries import Entry

INSTALL = "install it: pip install 'coterie[tracing]'"
SECOND = 1_000_000_000  # nanoseconds
OPERATIONS: Mapping[str, str] = {
    "/chat/completions": "chat",
    "/completions": "text_completion",
    "/embeddings": "embeddings",
    "/responses": "chat",
}
TOKENS = [4.0**power for power in range(14)]
DURATIONS = [0.01 * 2**power for power in range(14)]


class Tracing:
    """Makes a span a request with a child for every attempt, and two histograms.

    Parameters
    ----------
    spans, reader
        A span processor and a metric reader; OTLP over HTTP by default, configured by
        OpenTelemetry's own environment variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` ...).

    Raises
    ------
    CoterieError
        The extra is not installed.
    """

    def __init__(self, spans: Any = None, reader: Any = None) -> None:
        try:
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
        except ImportError:
            raise CoterieError(f"tracing needs opentelemetry; {INSTALL}") from None
        resource = Resource.create({"service.name": "coterie"})
        self._traces = TracerProvider(resource=resource)
        self._traces.add_span_processor(spans or _exported_spans())
        views = [
            View(instrument_name=name, aggregation=ExplicitBucketHistogramAggregation(bounds))
            for name, bounds in (
                ("gen_ai.client.token.usage", TOKENS),
                ("gen_ai.client.operation.duration", DURATIONS),
            )
        ]
        metrics = [reader or _exported_metrics()]
        self._metrics = MeterProvider(metrics, resource=resource, views=views)
        self._tracer = self._traces.get_tracer("coterie.gateway")
        meter = self._metrics.get_meter("coterie.gateway")
        self._tokens = meter.create_histogram("gen_ai.client.token.usage", "{token}")
        self._durations = meter.create_histogram("gen_ai.client.operation.duration", "s")

    def record(self, entry: Entry, traceparent: str | None = None) -> None:
        """Spans and measurements of a request that has ended."""
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {"traceparent": traceparent} if traceparent else {}
        context = TraceContextTextMapPropagator().extract(carrier)
        operation = OPERATIONS.get(entry.path, "chat")
        start = int(entry.time * SECOND)
        span = self._tracer.start_span(
            f"{operation} {entry.asked}",
            context,
            SpanKind.SERVER,
            _attributes(entry, operation),
            start_time=start,
        )
        inside = set_span_in_context(span)
        at = start
        for attempt in entry.attempts:
            facts = {"gen_ai.operation.name": operation, "gen_ai.request.model": attempt.expert}
            if attempt.kind:
                facts["error.type"] = attempt.kind
            child = self._tracer.start_span(
                f"{operation} {attempt.expert}", inside, SpanKind.CLIENT, facts, start_time=at
            )
            at += int(attempt.seconds * SECOND)
            child.end(at)
        span.end(start + int(entry.latency * SECOND))
        self._measure(entry, operation)

    def _measure(self, entry: Entry, operation: str) -> None:
        facts = {"gen_ai.operation.name": operation, "gen_ai.provider.name": "coterie"}
        facts["gen_ai.request.model"] = entry.expert or "none"
        self._durations.record(entry.latency, facts)
        for kind, count in (("input", entry.tokens.prompt), ("output", entry.tokens.completion)):
            self._tokens.record(count, {**facts, "gen_ai.token.type": kind})

    def close(self) -> None:
        """Send what waits."""
        self._traces.shutdown()
        self._metrics.shutdown()


def _attributes(entry: Entry, operation: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "coterie",
        "gen_ai.request.model": entry.asked,
        "gen_ai.response.model": entry.expert,
        "gen_ai.response.id": entry.id,
        "gen_ai.usage.input_tokens": entry.tokens.prompt,
        "gen_ai.usage.output_tokens": entry.tokens.completion,
        "http.response.status_code": entry.status,
        "coterie.policy": entry.policy,
        "coterie.cost": entry.cost,
        "coterie.attempts": len(entry.attempts),
    }
    return {**facts, "error.type": entry.error} if entry.error else facts


def _exported_spans() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(OTLPSpanExporter())


def _exported_metrics() -> Any:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    return PeriodicExportingMetricReader(OTLPMetricExporter())
