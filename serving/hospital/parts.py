"""What the handlers of a hospital's server share, and what Prometheus may read of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serving.hospital.deployment import Stage
from serving.hospital.telling import Telling
from serving.inference.access import Guard
from serving.inference.metrics import Metrics, Running
from serving.inference.traces import Traces

if TYPE_CHECKING:
    from serving.reading.readers import Readers


class Shown:
    """The deployment that answers, as the metrics of the inference server want it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    @property
    def loaded(self) -> Mapping[str, Running]:
        """The worker by the digest of its model."""
        active = self._stage.active
        return {active.predicate.model.digest: active.worker}

    @property
    def count(self) -> int:
        """Places for requests."""
        return self._stage.active.worker.count

    @property
    def taken(self) -> int:
        """Requests under way."""
        return self._stage.active.worker.taken


@dataclass
class Parts:
    """token None: nobody is asked for one. telling None: nobody wants to hear of predictions."""

    stage: Stage
    readers: "Readers"
    traces: Traces = field(default_factory=lambda: Traces(None))
    token: str | None = None
    telling: Telling | None = None

    def __post_init__(self) -> None:
        stage, shown = self.stage, Shown(self.stage)
        self.guard = None if self.token is None else Guard(self.token)
        self.metrics = Metrics(shown, shown)
        add = self.metrics.gauge
        add(
            "touchstone_certificate_in_force",
            "1 while the certificate allows predictions",
            lambda: float(stage.active.in_force),
        )
        add(
            "touchstone_certificate_seconds_left",
            "Until the certificate ends",
            lambda: (stage.active.predicate.not_after - stage.active.clock()).total_seconds(),
        )
        add(
            "touchstone_status_seconds_left",
            "Until the facility's status must have been renewed; NaN where none is asked for",
            lambda: _or_nan(stage.active.watch.seconds_left),
        )
        add(
            "touchstone_predictions_not_told",
            "Predictions that the monitoring was too slow to be told of",
            lambda: float(self.telling.lost if self.telling else 0),
        )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
