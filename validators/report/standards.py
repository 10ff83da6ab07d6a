"""Which headings of guidelines and laws this report holds evidence on, and where.

    >>> [row.title for row in mapped(report)[0].rows if not row.evidence][:1]
    ['sources of bias, named early']

Rules
-----
1. It is a map, not a claim of conformity: a heading with evidence is touched, never fulfilled.
2. An item is covered only by a part that this very report holds: `PARTS` asks the report. An item
   without such a part is "not assessed".
3. Everything here is standalone performance. Use by people is never covered.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from validators.evidence import Report
from validators.report.standards_items import STANDARDS

NOT_ASSESSED = "not assessed"


class Part(NamedTuple):
    """What a report may hold: its words, the anchor of its section, and whether it is there."""

    words: str
    anchor: str
    is_held: Callable[[Report], bool]


class Row(NamedTuple):
    """One heading; `evidence` are (words, anchor) of the parts that are held."""

    number: str
    title: str
    evidence: tuple[tuple[str, str], ...]


class Mapped(NamedTuple):
    """One document, mapped."""

    name: str
    source: str
    level: str
    rows: tuple[Row, ...]

    @property
    def touched(self) -> int:
        """How many headings have evidence."""
        return sum(bool(row.evidence) for row in self.rows)


def _draws(name: str) -> Callable[[Report], bool]:
    def held(report: Report) -> bool:
        return report.curves is not None and any(of.name == name for of in report.curves.figures)

    return held


def _has_use(report: Report) -> bool:
    return any(value not in (None, "") for value in report.intended_use.values())


def _has_values(report: Report) -> bool:
    return any(of.estimate is not None for of in report.endpoints)


def _has_intervals(report: Report) -> bool:
    return any(of.interval is not None for of in report.endpoints)


def _is_compared(report: Report) -> bool:
    return any(of.comparison is not None and of.comparison.difference is not None
               for of in report.endpoints)  # fmt: skip


def _was_disturbed(report: Report) -> bool:
    return any(drop.drop is not None for run in report.robustness for drop in run.drops)


def _knows_sites(report: Report) -> bool:
    return any(row.estimate is not None for of in report.sites for row in of.rows)


def _was_searched(report: Report) -> bool:
    return report.leakage is not None and bool(report.leakage.findings)


def _was_held_against_development(report: Report) -> bool:
    return report.drift is not None and any(
        of.shifted is not None for of in report.drift.attributes
    )


PARTS: Mapping[str, Part] = {
    "use": Part("intended use", "use", _has_use),
    "limits": Part("limits of use", "use", lambda r: bool(r.intended_use.get("limits"))),
    "reference": Part("reference standard", "use", lambda r: bool(r.reference_standard)),
    "sampling": Part("sampling", "use", lambda r: bool(r.sampling)),
    "goals": Part("why these goals", "use", lambda r: bool(r.goals_rationale)),
    "regulation": Part("what a pilot needs", "use", lambda r: bool(r.regulatory_references)),
    "threshold": Part("locked threshold", "top", lambda r: r.threshold is not None),
    "flow": Part("flow of cases", "flow", lambda r: True),
    "excluded": Part("left out, by reason", "flow", lambda r: bool(r.case_flow.excluded)),
    "indeterminate": Part(
        "indeterminate answers", "flow", lambda r: r.case_flow.indeterminate is not None
    ),
    "endpoints": Part("endpoints", "endpoints", _has_values),
    "uncertainty": Part("intervals", "endpoints", _has_intervals),
    "comparison": Part("comparison", "comparisons", _is_compared),
    "net_benefit": Part("decision curve", "figures", _draws("decision-curve")),
    "groups": Part("groups", "groups",
                   lambda r: any(of.estimate is not None for of in r.subgroups)),
    "within": Part("gaps within hospitals", "within",
                   lambda r: any(of.within_sites is not None for of in r.subgroups)),
    "sites": Part("hospitals", "sites", _knows_sites),
    "robustness": Part("disturbance", "robustness", _was_disturbed),
    "drift": Part("development data", "drift", _was_held_against_development),
    "leakage": Part("search for leakage", "leakage", _was_searched),
    "failures": Part("failed cases", "failed", lambda r: True),
    "computed": Part("digests", "computed", lambda r: r.digests.model is not None),
    "locked": Part("locked cohort", "computed", lambda r: r.digests.cohort_root is not None),
    "sandbox": Part("sandbox", "computed", lambda r: bool(r.environment.sandbox.get("seccomp"))),
    "repeatability": Part("run again", "computed", lambda r: bool(r.environment.repeatability)),
    "attribution": Part("source of the data", "attribution", lambda r: bool(r.attribution)),
}  # fmt: skip


def mapped(report: Report) -> tuple[Mapped, ...]:
    """Every heading of every document with the evidence that `report` holds on it."""
    held = {name for name, part in PARTS.items() if part.is_held(report)}
    return tuple(
        Mapped(
            standard.name,
            standard.source,
            standard.level,
            tuple(
                Row(
                    item.number,
                    item.title,
                    tuple((PARTS[of].words, PARTS[of].anchor) for of in item.parts if of in held),
                )
                for item in standard.items
            ),
        )
        for standard in STANDARDS
    )
