"""Traces by OpenTelemetry, sent as OTLP over HTTP where the operator named a collector.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 python -m serving.inference.server …

Rules
-----
1. A span holds a route, a digest, a status, counts and times; never a value, a name of a tensor
   or a header.
2. Without a collector no span is made. A collector that is away costs no request anything.
3. The caller's `traceparent` is followed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import httpx

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Span(Protocol):
    """What a handler does with a span."""

    def set_attribute(self, key: str, value: str | int | float | bool) -> None: ...


class Nothing:
    """A span that is not made."""

    def set_attribute(self, key: str, value: str | int | float | bool) -> None:
        """Kept nowhere."""


class Traces:
    """The spans of one server; `endpoint` None: there are none."""

    def __init__(self, endpoint: str | None, service: str = "touchstone-inference") -> None:
        self._provider: Any = None
        if not endpoint:
            return
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(
            resource=Resource({SERVICE_NAME: service}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint)))
        self._tracer = self._provider.get_tracer("serving.inference")
        self._propagator = TraceContextTextMapPropagator()

    def request(self, route: str, headers: Mapping[str, str]) -> AbstractContextManager[Span]:
        """The span of one request, under the caller's own if it named one."""
        if self._provider is None:
            return nullcontext(Nothing())
        from opentelemetry.trace import SpanKind

        parent = {"traceparent": headers.get("traceparent", "")}
        span: AbstractContextManager[Span] = self._tracer.start_as_current_span(
            route,
            context=self._propagator.extract(parent),
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        )
        return span

    def part(self, name: str) -> AbstractContextManager[Span]:
        """The span of a part of the request that is being answered."""
        if self._provider is None:
            return nullcontext(Nothing())
        span: AbstractContextManager[Span] = self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        )
        return span

    def close(self) -> None:
        """Send what is left, for two seconds at most."""
        if self._provider is not None:
            self._provider.force_flush(2000)
            self._provider.shutdown()


def _exporter(endpoint: str) -> Any:
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Exporter(SpanExporter):
        """One POST for each batch of spans."""

        def __init__(self) -> None:
            self._client = httpx.Client(timeout=5, trust_env=False)

        def export(self, spans: Sequence[Any]) -> Any:
            with _quiet():
                answer = self._client.post(
                    endpoint.rstrip("/") + "/v1/traces",
                    content=encoded(spans),
                    headers={"Content-Type": "application/x-protobuf"},
                )
                if answer.is_success:
                    return SpanExportResult.SUCCESS
            return SpanExportResult.FAILURE

        def shutdown(self) -> None:
            self._client.close()

    return Exporter()


@contextmanager
def _quiet() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError:
        return


def encoded(spans: Sequence[Any]) -> bytes:
    """Spans as an ExportTraceServiceRequest of OTLP 1."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    scope = resource.scope_spans.add()
    for span in spans:
        if not resource.resource.attributes:
            _attributes(resource.resource.attributes, span.resource.attributes)
        row = scope.spans.add()
        row.trace_id = span.context.trace_id.to_bytes(16, "big")
        row.span_id = span.context.span_id.to_bytes(8, "big")
        if span.parent is not None:
            row.parent_span_id = span.parent.span_id.to_bytes(8, "big")
        row.name = span.name
        row.kind = span.kind.value + 1  # OTLP counts from "unspecified"
        row.start_time_unix_nano, row.end_time_unix_nano = span.start_time, span.end_time
        _attributes(row.attributes, span.attributes)
    return bytes(request.SerializeToString())


def _attributes(rows: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        row = rows.add()
        row.key = key
        if isinstance(value, bool):
            row.value.bool_value = value
        elif isinstance(value, int):
            row.value.int_value = value
        elif isinstance(value, float):
            row.value.double_value = value
        else:
            row.value.string_value = str(value)
