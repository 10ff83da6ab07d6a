"""Deleting what is older than the hospital may keep, in one command, without losing an alarm.

    >>> forget(state, certified, today=date.today(), days=365)
    Forgotten(before='2025-11-28', predictions=30, outcomes=12)

Rules
-----
1. Whole days go: predictions by the day of the answer, outcomes by the day on which they came.
2. Before that, where each sequential question stands is written down from the same data
   (`carried-….json`: one number a gambler, no value of a patient), so that its error rate and its
   alarms go on. It is written whole before anything is deleted; a kill in between does no harm:
   the file says up to which day it counts, and the tests begin after that day.
   Days hold the answers of every model here: they go once all of them have been written down.
3. A case whose answer was deleted before its outcome came is in no figure.
"""

import datetime as dt
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registry.trust.canonical import hex_of
from registry.trust.errors import Invalid, Refused, Unavailable
from serving.pilot import day_files
from serving.pilot.certified import Certified
from serving.pilot.log import PREDICTIONS
from serving.pilot.outcomes import OUTCOMES
from serving.pilot.reading import Answers, Cases, Pilot, read_pilot
from serving.pilot.sequential import Carried, Watched, watch
from serving.whole_file import put_whole


@dataclass(frozen=True)
class Forgotten:
    """What was deleted: days of predictions and of outcomes, all before `before`."""

    before: str
    predictions: int
    outcomes: int


def forget(state: Path, certified: Certified, today: dt.date, days: int) -> Forgotten:
    """Delete every day that is more than `days` days before `today`."""
    if days < 1:
        raise Invalid("keep at least one day")
    before = (today - dt.timedelta(days=days)).isoformat()
    past, carried = _carried(state, certified.certificate)
    if before > past:
        pilot = read_pilot(state, certified)
        asked = watch(_between(pilot, past, before), certified, carried)
        _write(state, certified, before, asked)
    if waiting := _not_written_down(state, before):
        raise Refused(
            f"nothing was deleted yet: before {before} lie answers of {len(waiting)} more "
            f"certificate too, {waiting[0]}. Run this with its bundle as well, so that its alarms "
            "stay",
            code="other_pilots",
        )
    return Forgotten(
        before=before,
        predictions=len(day_files.forget(state / PREDICTIONS, before)),
        outcomes=len(day_files.forget(state / OUTCOMES, before)),
    )


def watch_all(state: Path, certified: Certified, pilot: Pilot) -> tuple[Watched, ...]:
    """Where each question stands, with what was deleted."""
    past, carried = _carried(state, certified.certificate)
    return watch(_between(pilot, past, "9999-12-31"), certified, carried)


def until(pilot: Pilot, day: dt.date) -> Pilot:
    """Answers of the days before `day`; an outcome that came later is taken as not there yet."""
    end = int(np.datetime64(day, "us").astype(np.int64))
    seen = pilot.cases.moment < end
    late = pilot.cases.arrived[seen] >= end
    kept = _chosen(pilot, pilot.answers.moment < end, seen)
    cases = kept.cases
    return replace(
        kept,
        cases=replace(
            cases,
            arrived=np.where(late, -1, cases.arrived),
            earliest=np.where(late, np.int8(-1), cases.earliest),
            latest=np.where(late, np.int8(-1), cases.latest),
        ),
    )


def _between(pilot: Pilot, first: str, before: str) -> Pilot:
    """Answers of the days from `first` on, and outcomes that came in them."""
    low, high = (int(np.datetime64(of, "us").astype(np.int64)) for of in (first, before))
    answers, arrived = pilot.answers.moment, pilot.cases.arrived
    return _chosen(
        pilot, (answers >= low) & (answers < high), (arrived >= low) & (arrived < high)
    )  # fmt: skip


def _chosen(pilot: Pilot, of_answers: NDArray[np.bool_], of_cases: NDArray[np.bool_]) -> Pilot:
    """Some answers and some cases."""
    answers, cases = pilot.answers, pilot.cases
    return Pilot(
        Answers(
            answers.moment[of_answers],
            answers.seconds[of_answers],
            answers.failed[of_answers],
            answers.score[of_answers],
            answers.unit[of_answers],
            answers.patient[of_answers],
            {name: of[of_answers] for name, of in answers.inputs.items()},
        ),
        Cases(
            cases.moment[of_cases],
            cases.arrived[of_cases],
            cases.earliest[of_cases],
            cases.latest[of_cases],
            cases.score[of_cases],
            cases.patient[of_cases],
            {name: of[of_cases] for name, of in cases.attributes.items()},
        ),
    )


def _not_written_down(state: Path, before: str) -> list[str]:
    """Certificates with answers before that day whose questions were not written down so far."""
    import pyarrow as pa

    from validators.parquet import table_in

    found: set[str] = set()
    for path in day_files.files(state / PREDICTIONS):
        if path.parent.name < before:
            try:
                found |= set(table_in(path, ["certificate"])["certificate"].unique().to_pylist())
            except (OSError, KeyError, pa.ArrowException) as error:
                raise Unavailable(f"{path} can't be read: move it out of there") from error
    return sorted(of for of in found if _carried(state, of)[0] < before)


def _path(state: Path, certificate: str) -> Path:
    return state / f"carried-{hex_of(certificate)[:16]}.json"


def _carried(state: Path, certificate: str) -> tuple[str, dict[str, Carried]]:
    """(first day that is not counted yet, where the questions stood)."""
    path = _path(state, certificate)
    if not path.exists():
        return "1970-01-01", {}
    try:
        written = json.loads(path.read_bytes())
        return written["before"], {
            name: Carried(of["units"], of["highest"], of["alarm"], tuple(map(tuple, of["state"])))
            for name, of in written["questions"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{path} is damaged: bring it back from your copy") from error


def _write(state: Path, certified: Certified, before: str, asked: tuple[Watched, ...]) -> None:
    kept = {
        of.name: asdict(Carried(of.units, of.highest, of.alarm, of.state)) for of in asked
    }  # fmt: skip
    written = json.dumps({"before": before, "questions": kept}).encode()
    put_whole(_path(state, certified.certificate), written, 0o600)
