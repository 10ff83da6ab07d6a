"""What Prometheus may read: routes, statuses, digests, counts and times.

Rules
-----
1. No name of a tensor, no size of one request, no value: nothing of a patient.
2. A label has few values: route templates, statuses, codes of failures, models that are loaded.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as _generate

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Running(Protocol):
    """A loaded model."""

    @property
    def restarts(self) -> int: ...


class Models(Protocol):
    """The models of a server that are loaded, by digest."""

    @property
    def loaded(self) -> Mapping[str, Running]: ...


class Taken(Protocol):
    """The places of a server for requests."""

    @property
    def count(self) -> int: ...

    @property
    def taken(self) -> int: ...


class Metrics:
    """The counters of one server."""

    def __init__(self, repository: Models, places: Taken) -> None:
        self._repository, self._registry = repository, CollectorRegistry()
        self._requests = Counter(
            "touchstone_inference_requests",
            "Requests answered",
            ("route", "status"),
            registry=self._registry,
        )
        self._failures = Counter(
            "touchstone_inference_failures",
            "Requests refused or failed, by stable code",
            ("code",),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "touchstone_inference_seconds",
            "Time of one call of a model: read (the body), run (queue and model)",
            ("stage",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._bytes = Counter(
            "touchstone_inference_body_bytes", "Bytes of bodies read", registry=self._registry
        )
        self._restarts = Gauge(
            "touchstone_inference_restarts",
            "Fresh processes of a loaded model after its first",
            ("model",),
            registry=self._registry,
        )
        for name, text, value in (
            ("places", "Places for requests", lambda: float(places.count)),
            ("places_taken", "Requests under way", lambda: float(places.taken)),
            ("models", "Models loaded", lambda: float(len(repository.loaded))),
        ):
            self.gauge(f"touchstone_inference_{name}", text, value)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show one more number, as it is when it is asked for."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def answered(self, route: str, status: int, code: str | None) -> None:
        """Count one answer."""
        self._requests.labels(route, str(status)).inc()
        if code is not None:
            self._failures.labels(code).inc()

    def read(self, size: int, seconds: float) -> None:
        """Count one body."""
        self._bytes.inc(size)
        self._seconds.labels("read").observe(seconds)

    def ran(self, seconds: float) -> None:
        """Count one call of a model."""
        self._seconds.labels("run").observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus' own form."""
        self._restarts.clear()
        for digest, model in self._repository.loaded.items():
            self._restarts.labels(digest).set(model.restarts)
        return bytes(_generate(self._registry))

    @staticmethod
    def content_type() -> str:
        """The media type of `text`."""
        return str(CONTENT_TYPE_LATEST)
