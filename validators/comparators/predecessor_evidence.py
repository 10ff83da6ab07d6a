"""What a report says of the certified version that came before: shapes alone. It judges nothing."""

from validators.contract.schema import Strict
from validators.outcome import Interval

STATEMENT = (
    "Descriptive: it opens and closes no gate and spends no alpha, and its intervals are not "
    "adjusted for each other."
)


class CertifiedVersion(Strict):
    """Which version of the same model held a certificate when this one was assessed."""

    version: int
    certificate: str
    """The digest of its statement, which names a certificate."""
    model: str
    protocol: str
    predictions: str | None
    """Of its run on this cohort; None where it has none here. Never released."""


class VersionDifference(Strict):
    """One metric of both versions on the same cases.

    `difference` is the new version less the certified one, in the metric's own unit: whether more
    is better, the metric says. Where the certified version failed on a case it counts as right in
    the difference and as wrong in `certified`. `clusters` are patients.
    """

    metric: str
    certified: float | None
    new: float | None
    difference: float | None
    interval: Interval | None
    n: int
    clusters: int | None
    reason: str = ""
    """Why there is no difference or interval."""


class ChangedSides(Strict):
    """Cases that one version called positive and the other negative, of those both decided."""

    cases: int
    to_positive: int
    to_negative: int


class PredecessorEvidence(Strict):
    """The new version against the certified one. `not_compared` says in one sentence why nothing
    was compared; it is empty where the rest is filled."""

    certified: CertifiedVersion
    not_compared: str = ""
    threshold: float | None = None
    """Of the certified version, from which on a score was positive."""
    failed: int | None = None
    """Predictions of the certified version that failed."""
    endpoints: tuple[VersionDifference, ...] = ()
    changed: ChangedSides | None = None
    statement: str = STATEMENT
