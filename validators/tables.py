"""The table of a task type from a file: which reader reads what.

>>> table = read_cases(Path("predictions.csv"), protocol, {"prediction": "volume"})
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from validators.metrics.measure import Cases
from validators.protocol.schema import Protocol
from validators.table import asked_attributes, read_table

_READERS = {
    "multiclass": ("multiclass_table", "read_multiclass"),
    "ordinal": ("multiclass_table", "read_multiclass"),
    "detection": ("detection_table", "read_detection"),
    "segmentation": ("segmentation_table", "read_segmentation"),
    "regression": ("regression_table", "read_regression"),
    "time_to_event": ("time_to_event_table", "read_time_to_event"),
}


def read_cases(path: Path, protocol: Protocol, columns: Mapping[str, str]) -> Cases:
    """The cases of a table for the protocol's task type, checked; Invalid in one line."""
    if protocol.task == "binary":
        return read_table(path, protocol, columns)
    module, name = _READERS[protocol.task]
    read: Any = getattr(import_module(f"validators.metrics.{module}"), name)
    found: Cases = read(
        path, protocol.settings, asked_attributes(protocol), protocol.cluster is not None, columns
    )
    return found
