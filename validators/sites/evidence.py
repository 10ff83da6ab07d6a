"""What hospitals showed, one by one and together: numbers about groups only."""

from typing import Literal

from validators.contract.schema import Strict
from validators.outcome import Interval, Outcome


class SiteRow(Strict):
    """One hospital, and the estimate of all others without it. None with a reason in `note`."""

    site: str
    n: int
    positives: int | None
    negatives: int | None
    clusters: int | None
    estimate: float | None
    interval: Interval | None
    without: float | None
    without_interval: Interval | None
    note: str


class AcrossSites(Strict):
    """What hospitals like these share (random effects); `prediction` is for one not yet seen.

    An average over hospitals is another question than the value of all cases together: here each
    hospital counts by what it tells of the next one.
    """

    mean: float
    interval: Interval
    prediction: Interval
    tau_squared: float
    i_squared: float
    q: float
    q_p_value: float
    sites: int
    scale: str


class SitesEvidence(Strict):
    """One metric by hospital. `floor` is judged by the prediction interval."""

    attribute: str
    metric: str
    rows: tuple[SiteRow, ...]
    across: AcrossSites | None
    floor: float | None
    rule: str
    outcome: Outcome
    reason: str


class WithinSites(Strict):
    """A group's gap behind the rest within hospitals (Mantel-Haenszel), beside the crude one.

    `reversal`: the two have different signs; `shown` if both intervals exclude 0. `opposite` are
    the hospitals whose own gap has the other sign than the crude one, `sites` those with cases on
    both sides.
    """

    gap: float
    interval: Interval
    sites: int
    opposite: int
    reversal: Literal["none", "estimated", "shown"]
