"""Which module computes what for a task type: the one place that knows them all.

>>> measures_of("regression", settings)["mae"].direction
'lower'
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from validators.intervals.share import size_bound_share
from validators.metrics import binary_measures
from validators.metrics.figure import Figure, Matrix
from validators.metrics.measure import Cases, Measure, Side, Undefined

if TYPE_CHECKING:
    from validators.protocol.tasks import TaskSettings

_MODULES = {
    "multiclass": "validators.metrics.multiclass",
    "ordinal": "validators.metrics.multiclass",
    "detection": "validators.metrics.detection",
    "segmentation": "validators.metrics.segmentation",
    "regression": "validators.metrics.regression",
    "time_to_event": "validators.metrics.time_to_event",
}
BINARY: Mapping[str, Measure] = binary_measures.MEASURES
NEEDS_PREVALENCE = (
    "brier", "integrated_brier", "calibration_in_the_large", "ici", "net_benefit",
    "observed_expected",
)  # fmt: skip
"""What these names begin with depends on how common the disease is in the cohort."""
FAILURE_RATE = Measure("failure_rate", "failure rate", "lower", 0.0, 1.0, 0.0)


class TaskModule(Protocol):
    """What each module of a task type offers."""

    def measures(self, settings: Any) -> Mapping[str, Measure]:
        """Its metrics by name."""

    def side(
        self, table: Any, metric: str, settings: Any, *, failed_is_right: bool = False
    ) -> Side | Undefined:
        """One metric with its uncertainty."""

    def figures(self, table: Any, settings: Any) -> tuple[Figure | Matrix, ...]:
        """What the report draws."""


def module_of(task: str) -> TaskModule:
    """The module of a task type that is not binary."""
    module: Any = import_module(_MODULES[task])
    found: TaskModule = module
    return found


def measures_of(task: str, settings: "TaskSettings | None") -> Mapping[str, Measure]:
    """The metrics of a task type, by name; the failure rate belongs to each."""
    if task == "binary":
        return {**BINARY, FAILURE_RATE.name: FAILURE_RATE}
    if settings is None:  # an incomplete protocol: its own check says so
        return {}
    found = dict(module_of(task).measures(settings))
    if task == "multiclass":  # squared distances between classes need an order
        found.pop("quadratic_kappa", None)
    return {**found, FAILURE_RATE.name: FAILURE_RATE}


def side_of(
    table: Cases, metric: str, task: str, settings: "TaskSettings", *, failed_is_right: bool = False
) -> Side | Undefined:
    """One metric of a table of a task type that is not binary."""
    if metric == FAILURE_RATE.name:
        return size_bound_share(np.asarray(table.failed), table.patient)
    return module_of(task).side(table, metric, settings, failed_is_right=failed_is_right)
