"""All that the page of a pilot shows, computed once: volumes, times, drift, performance, alarms.

    >>> summary = summarise(state, certified)
    >>> summary.alarms
    ()

Pure but for the reading of the log; times are of the log, never of a clock.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.pilot.certified import Certified
from serving.pilot.drift import InputShift, Shift, drift, input_drift
from serving.pilot.performance import Performance, performance
from serving.pilot.reading import Answers, read_pilot
from serving.pilot.retention import watch_all
from serving.pilot.sequential import Watched


@dataclass(frozen=True)
class Week:
    """Answers of one week; `monday` is its first day in UTC, seconds their median."""

    monday: str
    answers: int
    failed: int
    seconds: float


@dataclass(frozen=True)
class Summary:
    """A pilot so far. first, last: days of the first and the last answer, None without any."""

    certified: Certified
    answers: int
    failed: int
    cases: int
    patients: int
    first: str | None
    last: str | None
    median_seconds: float | None
    late_seconds: float | None
    """The 95th percentile."""
    weeks: tuple[Week, ...]
    watched: tuple[Watched, ...]
    shifts: tuple[Shift, ...]
    inputs: tuple[InputShift, ...]
    performance: Performance

    @property
    def alarms(self) -> tuple[Watched, ...]:
        """The questions that gave an alarm."""
        return tuple(of for of in self.watched if of.alarm is not None)


def summarise(state: Path, certified: Certified) -> Summary:
    """The pilot of a certificate, as its log and outcomes say. Raises as `read_pilot`."""
    pilot = read_pilot(state, certified)
    answers = pilot.answers
    n = len(answers.moment)
    days = answers.moment.astype("datetime64[us]").astype("datetime64[D]")
    return Summary(
        certified=certified,
        answers=n,
        failed=int(answers.failed.sum()),
        cases=pilot.cases.n,
        patients=len(np.unique(pilot.cases.patient)),
        first=str(days[0]) if n else None,
        last=str(days[-1]) if n else None,
        median_seconds=float(np.median(answers.seconds)) if n else None,
        late_seconds=float(np.quantile(answers.seconds, 0.95)) if n else None,
        weeks=_weeks(answers),
        watched=watch_all(state, certified, pilot),
        shifts=drift(pilot, certified),
        inputs=input_drift(answers),
        performance=performance(pilot.cases, certified),
    )


def _weeks(answers: Answers) -> tuple[Week, ...]:
    """Every week from the first to the last answer, empty ones too."""
    if not len(answers.moment):
        return ()
    days = answers.moment.astype("datetime64[us]").astype("datetime64[D]").astype(np.int64)
    week = (days + 3) // 7  # 1970-01-01 was a Thursday
    found = []
    for number in range(int(week[0]), int(week[-1]) + 1):
        chosen = week == number
        found.append(
            Week(
                monday=str(np.datetime64(number * 7 - 3, "D")),
                answers=int(chosen.sum()),
                failed=int(answers.failed[chosen].sum()),
                seconds=float(np.median(answers.seconds[chosen])) if chosen.any() else 0.0,
            )
        )
    return tuple(found)
