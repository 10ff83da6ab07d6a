"""What a hospital may send of its pilot, and nothing more: counts in tens, shares, alarms.

    >>> report = parse_pilot_report(payload_of(envelope))

Rules
-----
1. Every count is a multiple of 10 and at least k, or null: withheld. Nothing is of a patient or of
   a day; times are months. Unknown fields are refused, so nothing else travels along.
2. In a row of counts whose total is known never one alone is withheld.
3. An alarm is always told, whatever the counts: it says that a certified claim is contradicted.
4. It is signed by the hospital's own key in a DSSE envelope of `PILOT_REPORT_TYPE`.
5. Both sides check this form: the hospital before signing, the facility before keeping.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from registry.trust.canonical import parse_canonical
from registry.trust.errors import Invalid

PILOT_REPORT_TYPE = "application/vnd.touchstone.pilot-report+json"
SMALLEST_K, STEP = 10, 10

Count = Annotated[int, Field(ge=STEP, le=10**9, multiple_of=STEP, strict=True)]
Month = Annotated[str, Field(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 _-]{0,79}$")]
Group = Annotated[str, Field(min_length=1, max_length=64)]
Hundredth = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AskedDaily(_Strict):
    """One question. evidence: per cent of what an alarm takes, in tens; alarm: its month."""

    question: Name
    patients: Count | None
    evidence: Annotated[int, Field(ge=0, le=100, multiple_of=10, strict=True)]
    alarm: Month | None


class Reached(_Strict):
    """A metric in hundredths, its interval rounded outward."""

    metric: Name
    estimate: Hundredth
    low: Hundredth
    high: Hundredth


class ScoreCounts(_Strict):
    """Patients by the bin of their first score, with the certified edges."""

    edges: Annotated[tuple[float, ...], Field(min_length=2, max_length=101)]
    counts: Annotated[tuple[Count | None, ...], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.counts) != len(self.edges) - 1:
            raise ValueError("there is one count fewer than edges")
        _check_row(self.counts)
        return self


class PilotReport(_Strict):
    """Aggregates of one pilot from its first to the end of its last whole month."""

    schema_id: Literal["touchstone/pilot-report/v1"] = "touchstone/pilot-report/v1"
    certificate: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    k: Annotated[int, Field(ge=SMALLEST_K, le=1000, strict=True)]
    first_month: Month
    last_month: Month
    answers: Count | None
    failed: Count | None
    patients: Count
    outcomes: Count | None
    positives: Count | None
    watched: Annotated[tuple[AskedDaily, ...], Field(max_length=100)]
    performance: Annotated[tuple[Reached, ...], Field(max_length=20)]
    score: ScoreCounts | None
    attributes: Annotated[dict[Name, dict[Group, Count | None]], Field(max_length=50)]

    @model_validator(mode="after")
    def _holds_the_rules(self) -> Self:
        if self.first_month > self.last_month:
            raise ValueError("it ends before it begins")
        for groups in self.attributes.values():
            if len(groups) > 100:
                raise ValueError("an attribute has too many groups")
            _check_row(tuple(groups.values()))
        rows = [self.answers, self.failed, self.patients, self.outcomes, self.positives]
        rows += [of.patients for of in self.watched]
        rows += [] if self.score is None else self.score.counts
        rows += [count for groups in self.attributes.values() for count in groups.values()]
        if any(count is not None and count < self.k for count in rows):
            raise ValueError("a count is below k")
        return self

    @property
    def alarms(self) -> tuple[str, ...]:
        """The questions that gave an alarm."""
        return tuple(of.question for of in self.watched if of.alarm is not None)


def parse_pilot_report(payload: bytes) -> PilotReport:
    """The report in canonical JSON bytes; Invalid for anything that is not one to the letter."""
    try:
        return PilotReport.model_validate(parse_canonical(payload))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole"
        raise Invalid(f"this is no report of a pilot: {where} breaks its rules") from error


def _check_row(counts: Sequence[int | None]) -> None:
    if sum(count is None for count in counts) == 1 and len(counts) > 1:
        raise ValueError("one count alone is withheld: it follows from the total")
