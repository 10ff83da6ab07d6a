"""What the facility certified, as far as a pilot is held against it. Read from a pulled bundle.

    >>> certified = read_certified(Path("nodules-3"))
    >>> certified.threshold, certified.performance["sensitivity"].interval.low

Rules
-----
1. `touchstone verify` has passed before. Here only the digests of the two files that are read are
   held against the certificate's subjects, so that an edited summary is noticed.
2. `reference-summary.json` holds shares and counts, never a case (its rules are the facility's).
   What was withheld there is None here, and what needs it is not watched; the page says so.
3. The threshold and the smallest group that may be shown (k) come from the released report. A k
   below 10 counts as 10.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from registry.trust.canonical import hex_of, sha256_bytes
from registry.trust.dsse import payload_of
from registry.trust.errors import Invalid, Tampered
from validators.contract.faults import fault
from validators.contract.schema import Strict
from validators.outcome import Interval

SUMMARY_FILE, REPORT_FILE, CERTIFICATE_FILE = (
    "reference-summary.json", "report.json", "certificate.json",
)  # fmt: skip
SMALLEST_GROUP = 10
_LARGEST = 64 << 20
Share = Annotated[float, Field(ge=0, le=1)]


class ScoreShares(Strict):
    """`shares[i]` of the cases had a score in [edges[i], edges[i + 1]), the last closed."""

    name: str
    edges: Annotated[tuple[float, ...], Field(min_length=2)]
    shares: tuple[Share, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.shares) != len(self.edges) - 1:
            raise fault("shares", "there is one fewer than edges")
        if any(left >= right for left, right in pairwise(self.edges)):
            raise fault("edges", "they ascend")
        return self


class Reached(Strict):
    """One endpoint as released."""

    estimate: float
    interval: Interval | None


class ReferenceSummary(Strict):
    """reference-summary.json; `calibration` is not used here."""

    schema_id: Literal["touchstone/reference-summary/v1"]
    cases: int | None
    score: ScoreShares | None
    prevalence: Share | None
    attributes: dict[str, dict[str, Share]]
    calibration: Any = None
    performance: dict[str, Reached]


@dataclass(frozen=True)
class Certified:
    """certificate: digest of the signed statement, which names the pilot. k: smallest group."""

    certificate: str
    model: str
    threshold: float | None
    alpha: float
    k: int
    summary: ReferenceSummary

    @property
    def performance(self) -> dict[str, Reached]:
        """Endpoints as released, by metric."""
        return self.summary.performance

    def lower_bound(self, metric: str) -> float | None:
        """The certified lower bound of a metric, None where there is none within (0, 1)."""
        found = self.performance.get(metric)
        if found is None or found.interval is None or not 0 < found.interval.low < 1:
            return None
        return found.interval.low


def read_certified(bundle: Path) -> Certified:
    """What the bundle's certificate, summary and report say.

    Raises Invalid where a file is missing or not what it should be, Tampered where it is not the
    one that was certified.
    """
    envelope = _json(bundle, _read(bundle, CERTIFICATE_FILE), CERTIFICATE_FILE)
    try:
        payload = payload_of(envelope)
        statement = json.loads(payload)
        subjects = {of["name"]: of["digest"]["sha256"] for of in statement["subject"]}
        named = statement["predicate"].get("model", {})
    except (
        Invalid, ValueError, KeyError, TypeError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        raise Invalid(f"{bundle / CERTIFICATE_FILE} is not a certificate") from error
    summary, report = (
        _json(bundle, _certified(bundle, name, subjects), name)
        for name in (SUMMARY_FILE, REPORT_FILE)
    )
    try:
        return Certified(
            certificate=sha256_bytes(payload),
            model=" ".join(str(named[of]) for of in ("name", "version") if of in named),
            threshold=report["threshold"],
            alpha=report["alpha"],
            k=max(SMALLEST_GROUP, report["disclosure"]["minimum_group"]),
            summary=ReferenceSummary.model_validate(summary),
        )
    except (ValidationError, KeyError, TypeError) as error:
        raise Invalid(
            f"{bundle} has a summary or report of a form that is not known here: update touchstone"
        ) from error


def _certified(bundle: Path, name: str, subjects: dict[str, str]) -> bytes:
    if name not in subjects:
        raise Invalid(f"{bundle} has no {name}: it is older than pilots; pull a newer version")
    data = _read(bundle, name)
    if hex_of(sha256_bytes(data)) != subjects[name]:
        raise Tampered(f"{bundle / name} is not the one that was certified", code="file_changed")
    return data


def _read(bundle: Path, name: str) -> bytes:
    path = bundle / name
    try:
        if path.is_symlink() or path.stat().st_size > _LARGEST:
            raise Invalid(f"{path} is a link or too large: pull the bundle again")
        return path.read_bytes()
    except OSError as error:
        raise Invalid(f"there is no {path}: name the folder that `touchstone pull` made") from error


def _json(bundle: Path, data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{bundle / name} is not JSON") from error
