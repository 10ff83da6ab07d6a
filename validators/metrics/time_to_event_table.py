"""The table of a time-to-event question: one row a case.

    >>> table = read_time_to_event(Path("predictions.csv"), settings, (), True, {})

Rules
-----
1. `time` > 0 is the follow-up in the unit of the settings; `event` is 1 if it ended with the
   event, 0 if it ended without (censored). Both are of the reference standard, never missing.
2. `risk` is any number, higher is worse. `probability_12` is the probability of the event by 12,
   in [0, 1]; a horizon whose column is absent has no Brier score and no calibration.
3. A case has all of its predicted values, or none: then its prediction failed or was withheld.
4. Columns are read-only; messages and `repr` hold no value of a case.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.metrics.case_columns import CaseColumns, column, locked
from validators.numbers import declared, numbers
from validators.protocol.tasks import TimeToEventSettings
from validators.table import (
    check_cases,
    check_mapping,
    failures,
    groups,
    patients,
    read_columns,
)
from validators.table_file import TableFile, count, open_table

_EVENT = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


@dataclass(frozen=True, eq=False)
class TimeToEventTable(CaseColumns):
    """n cases; `risk` is NaN where the prediction failed, and so are the `probabilities`.

    `probabilities` maps a horizon to the probability of the event by then. Raises Invalid for
    whatever breaks the module's rules.
    """

    time: NDArray[np.float64] = field(repr=False)
    event: NDArray[np.bool_] = field(repr=False)
    risk: NDArray[np.float64] = field(repr=False)
    probabilities: Mapping[float, NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        n = len(np.atleast_1d(self.time))
        time = _numbers("time", self.time, n)
        if wrong := int((~np.isfinite(time) | (time <= 0)).sum()):
            raise Invalid(f"{wrong} of {n} times are missing, or not above 0")
        event = column("event", self.event, n)
        if wrong := int((~np.isin(event, (0, 1))).sum()):
            raise Invalid(f"event is neither 0 nor 1 in {wrong} of {n} cases")
        risk = _numbers("risk", self.risk, n)
        if wrong := int(np.isinf(risk).sum()):
            raise Invalid(f"{wrong} of {n} risks are infinite")
        probabilities = {}
        for horizon, given in sorted(self.probabilities.items()):
            name = f"probability_{written(horizon)}"
            values = _numbers(name, given, n)
            if wrong := int(((values < 0) | (values > 1)).sum()):
                raise Invalid(f"{wrong} of {n} values of {name} lie outside [0, 1]")
            if wrong := int((np.isnan(values) != np.isnan(risk)).sum()):
                raise Invalid(f"{wrong} of {n} cases have only one of risk and {name}")
            probabilities[float(horizon)] = locked(values)
        self._set("time", locked(time))
        self._set("event", locked(event.astype(bool)))
        self._set("risk", locked(risk))
        self._set("probabilities", probabilities)
        self._check_columns(self.failed)

    @property
    def n(self) -> int:
        """Number of cases, failed ones included."""
        return len(self.time)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which cases have no usable prediction."""
        return np.isnan(self.risk)

    def subset(self, chosen: NDArray[np.bool_]) -> Self:
        """The chosen cases ([n]), patients recoded; attributes and counts of codes are dropped."""
        return type(self)(
            time=self.time[chosen],
            event=self.event[chosen],
            risk=self.risk[chosen],
            probabilities={at: of[chosen] for at, of in self.probabilities.items()},
            patient=self._chosen_patients(chosen),
        )


def written(horizon: float) -> str:
    """A horizon as names of columns and metrics hold it: 12, 0.5."""
    return str(int(horizon)) if float(horizon).is_integer() else repr(float(horizon))


def read_time_to_event(
    path: Path,
    settings: TimeToEventSettings,
    attributes: tuple[str, ...],
    clustered: bool,
    columns: Mapping[str, str],
) -> TimeToEventTable:
    """The cases of a table (CSV or Parquet), checked.

    A case without a risk needs a code in `failure`. A probability column that the file lacks is
    left out, unless `columns` names it. Raises Invalid in one line that says what to do.
    """
    of_horizon = {f"probability_{written(at)}": at for at in settings.horizons}
    needed = ["case", *(["patient"] if clustered else []), "time", "event", "risk", *attributes]
    check_mapping(columns, [*needed, *of_horizon, "patient", "failure"])
    file = open_table(path)
    wanted, data = read_columns(file, needed, columns, (*of_horizon, "failure"))
    check_cases(file, data["case"])
    failure = failures(file, data.get("failure"), len(data["case"]))
    risk = numbers(file, wanted["risk"], data["risk"], -np.inf, np.inf)
    declared(file, wanted["risk"], risk, failure)
    probabilities = {}
    for name, horizon in of_horizon.items():
        if name in wanted:
            values = numbers(file, wanted[name], data[name], 0.0, 1.0)
            declared(file, wanted[name], values, failure)
            probabilities[horizon] = values
    return TimeToEventTable(
        time=_times(file, wanted["time"], data["time"], settings),
        event=_events(file, wanted["event"], data["event"]),
        risk=risk,
        probabilities=probabilities,
        patient=patients(file, wanted["patient"], data["patient"]) if clustered else None,
        attributes={name: groups(file, wanted[name], data[name]) for name in attributes},
        failed_by_code=dict(sorted(Counter(failure[failure != ""].tolist()).items())),
    )


def _times(
    file: TableFile, name: str, data: pa.Array, settings: TimeToEventSettings
) -> NDArray[np.float64]:
    where = f"{file.path.name}: {name}"
    times = numbers(file, name, data, -np.inf, np.inf)
    if empty := int(np.isnan(times).sum()):
        raise Invalid(
            f"{where} is empty in {empty} rows; a case without follow-up can't be scored, so "
            "leave those rows out and say so"
        )
    if wrong := int((times <= 0).sum()):
        raise Invalid(
            f"{where} is zero or negative in {wrong} rows; it is the follow-up in {settings.unit} "
            "from when the prediction is made, so correct the dates, or leave out those who had "
            "the event before"
        )
    return times


def _events(file: TableFile, name: str, data: pa.Array) -> NDArray[np.bool_]:
    where, lower = f"{file.path.name}: {name}", pc.utf8_lower(data)
    if empty := count(pc.equal(lower, "")):
        raise Invalid(
            f"{where} is empty in {empty} rows; write 1 where the follow-up ended with the event, "
            "0 where it ended without"
        )
    position = pc.index_in(lower, pa.array(list(_EVENT)))
    if position.null_count:
        raise Invalid(
            f"{where} is neither 0 or 1 nor true or false in {position.null_count} rows; 1 means "
            "that the event came at `time`, 0 that it had not (another event that makes it "
            "impossible is not told apart here)"
        )
    values = np.array(list(_EVENT.values()))
    events: NDArray[np.bool_] = values[position.to_numpy(zero_copy_only=False)]
    return events


def _numbers(name: str, given: Any, n: int) -> NDArray[np.float64]:
    values = column(name, given, n)
    if values.dtype.kind not in "fiub":
        raise Invalid(f"the column {name} must hold numbers, not {values.dtype.name}")
    return values.astype(np.float64)
