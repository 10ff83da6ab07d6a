"""What may go back to the facility: aggregates that say nothing of a patient, if the hospital asks.

    >>> report = shared(state, certified, today=date.today())
    >>> canonical(report.model_dump(mode="json"))          # all that would be sent
    >>> envelope = signed(report, signer)

Rules
-----
1. Nothing is sent by itself. The hospital sees the whole report first, and what it then signs and
   sends must have the digest of what it saw.
2. Counts are of patients wherever a patient could be in one twice, and are rounded to the nearest
   ten. What is below k (of the certificate, at least 10), zero too, is withheld; so are the
   smallest others of its row until two are withheld that together hold 2k.
3. A report ends with the last whole month, and needs k new patients since the one before. So two
   reports do not differ by a patient or by a day. That one was sent is written down before it is.
4. Performance is told where both classes have k patients, and k new ones each since it was told
   last, so that two estimates do not differ by one patient's answer: in hundredths, intervals
   rounded outward. Few errors of many patients are told, as in the facility's own releases. How
   near a question is to an alarm is told from k patients on; an alarm always.
5. The form is checked by `registry.trust.pilot_report` before it is signed.
"""

import datetime as dt
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registry.trust.canonical import canonical, hex_of
from registry.trust.dsse import Envelope, add_signature, unsigned
from registry.trust.errors import Invalid, Refused
from registry.trust.pilot_report import (
    PILOT_REPORT_TYPE,
    STEP,
    AskedDaily,
    PilotReport,
    Reached,
    ScoreCounts,
    parse_pilot_report,
)
from registry.trust.signer import Signer
from serving.pilot.certified import Certified
from serving.pilot.drift import Shift, drift
from serving.pilot.performance import Figure, performance
from serving.pilot.reading import Cases, Pilot, read_pilot
from serving.pilot.retention import until, watch_all
from serving.pilot.sequential import Watched
from serving.whole_file import put_whole


def shared(state: Path, certified: Certified, today: dt.date) -> PilotReport:
    """The report up to the end of the month before `today`.

    Raises Refused where there are too few patients for any report, or too few new ones.
    """
    month = today.replace(day=1)
    pilot = until(read_pilot(state, certified), month)
    k = certified.k
    patients = len(np.unique(pilot.answers.patient))
    before, _ = _told(state, certified)
    new = np.unique(
        pilot.answers.patient[_months(pilot.answers.moment) > np.datetime64(before, "M")]
    )
    old = np.unique(
        pilot.answers.patient[_months(pilot.answers.moment) <= np.datetime64(before, "M")]
    )
    if len(np.setdiff1d(new, old)) < k:
        raise Refused(
            f"in whole months since {before} there are fewer than {k} new patients: nothing may "
            "be told of so few; share again in another month",
            code="too_few_patients",
        )
    first = _months(pilot.answers.moment)[0]
    found = performance(pilot.cases, certified)
    positives, negatives = _patients_by_class(pilot.cases)
    both = min(positives, negatives) >= k
    told = both and _enough_new(state, certified, pilot)
    shifts = {of.name: of for of in drift(pilot, certified)}
    score = shifts.pop("score", None)
    report = PilotReport(
        certificate=certified.certificate,
        k=k,
        first_month=str(first),
        last_month=f"{month - dt.timedelta(days=1):%Y-%m}",
        answers=_count(len(pilot.answers.moment), k),
        failed=_count(int(pilot.answers.failed.sum()), k),
        patients=_count(patients, k) or k,
        outcomes=_count(positives + negatives, k),
        positives=_count(positives, k) if both else None,
        watched=tuple(_asked(of, k) for of in watch_all(state, certified, pilot)),
        performance=tuple(_reached(found.figures)) if told else (),
        score=_score(score, certified, k),
        attributes={
            name: dict(zip(of.labels, withheld(of.here, k), strict=True))
            for name, of in shifts.items()
        },
    )
    return parse_pilot_report(canonical(report.model_dump(mode="json")))


def signed(report: PilotReport, signer: Signer) -> Envelope:
    """The report in an envelope with the hospital's signature."""
    payload = canonical(report.model_dump(mode="json"))
    return add_signature(unsigned(PILOT_REPORT_TYPE, payload), signer)


def mark_shared(state: Path, certified: Certified, report: PilotReport) -> Callable[[], object]:
    """Remember up to which month the facility was told, and when of performance (rules 3, 4).

    Returns what takes it back, for a report that the facility refused.
    """
    path = _path(state, certified)
    before = path.read_bytes() if path.exists() else None
    performance = report.last_month if report.performance else _told(state, certified)[1]
    written = json.dumps({"last_month": report.last_month, "performance": performance}).encode()
    put_whole(path, written, 0o600)
    return path.unlink if before is None else partial(put_whole, path, before, 0o600)


def withheld(counts: Sequence[int], k: int) -> tuple[int | None, ...]:
    """The counts of a row in tens, None for those below k and for what would give them away."""
    hidden = {place for place, count in enumerate(counts) if count < k}
    others = sorted(set(range(len(counts))) - hidden, key=lambda place: (counts[place], place))
    while hidden and others and (len(hidden) < 2 or sum(counts[of] for of in hidden) < 2 * k):
        hidden.add(others.pop(0))
    return tuple(
        None if place in hidden else _count(count, k) for place, count in enumerate(counts)
    )


def _count(count: int, k: int) -> int | None:
    """To the nearest ten, never below k's own ten; None below k."""
    if count < k:
        return None
    return max(STEP * round(count / STEP), STEP * math.ceil(k / STEP))


def _asked(of: Watched, k: int) -> AskedDaily:
    patients = _count(of.units, k)
    part = 0 if patients is None else min(90, 10 * int(10 * of.highest / of.limit))
    part = 100 if of.alarm else part
    return AskedDaily(
        question=of.name,
        patients=patients,
        evidence=part,
        alarm=None if of.alarm is None else of.alarm[:7],
    )


def _reached(figures: Sequence[Figure]) -> list[Reached]:
    return [
        Reached(
            metric=of.metric,
            estimate=round(of.estimate.value, 2),
            low=math.floor(100 * of.estimate.interval.low) / 100,
            high=math.ceil(100 * of.estimate.interval.high) / 100,
        )
        for of in figures
        if of.estimate.value is not None
        and of.estimate.interval is not None
        and max(map(abs, (of.estimate.interval.low, of.estimate.interval.high))) < 99
    ]


def _score(of: Shift | None, certified: Certified, k: int) -> ScoreCounts | None:
    if of is None or certified.summary.score is None:
        return None
    return ScoreCounts(edges=certified.summary.score.edges, counts=withheld(of.here, k))


def _patients_by_class(cases: Cases) -> tuple[int, int]:
    return len(_patients(cases, 1)), len(_patients(cases, 0))


def _patients(cases: Cases, reference: int) -> NDArray[np.str_]:
    return np.unique(cases.patient[cases.latest == reference])


def _enough_new(state: Path, certified: Certified, pilot: Pilot) -> bool:
    """Whether both classes have k new patients since performance was told last."""
    _, month = _told(state, certified)
    if month is None:
        return True
    following = (np.datetime64(month, "M") + 1).astype("datetime64[D]").item()
    then = until(pilot, following).cases
    return all(
        len(np.setdiff1d(_patients(pilot.cases, of), _patients(then, of))) >= certified.k
        for of in (0, 1)
    )


def _path(state: Path, certified: Certified) -> Path:
    return state / f"shared-{hex_of(certified.certificate)[:16]}.json"


def _months(moment: NDArray[np.int64]) -> NDArray[np.datetime64]:
    return moment.astype("datetime64[us]").astype("datetime64[M]")


def _told(state: Path, certified: Certified) -> tuple[str, str | None]:
    """The last month that the facility was told of, and the last one with performance.

    Where there is none: a month before any pilot, and None.
    """
    path = _path(state, certified)
    if not path.exists():
        return "1970-01", None
    try:
        written = json.loads(path.read_bytes())
        month = str(np.datetime64(written["last_month"], "M"))
        performance = written.get("performance", month)  # of an older form: it was told
        return month, None if performance is None else str(np.datetime64(performance, "M"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"{path} is damaged: bring it back from your copy") from error
