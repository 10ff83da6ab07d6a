"""What the search for leakage showed: counts, each with a reason to look or none.

Nothing here fails a model. An overlap may be a patient who came twice, two bodies that look alike,
or a very good model; a person decides, with what the facility holds.
"""

from typing import TYPE_CHECKING, Literal

from validators.contract.schema import Strict

if TYPE_CHECKING:  # the searches need numpy and scipy, a reader of reports does not
    from validators.leakage.identifiers import Overlap
    from validators.leakage.perceptual import NearDuplicates
    from validators.leakage.pixels import ExactDuplicates

LeakageOutcome = Literal["clear", "held_for_review"]
Search = Literal["patients", "exact_pixels", "near_pictures", "implausible_result"]


class LeakageFinding(Strict):
    """One search. `counts` are numbers of patients, cases or pairs, by name."""

    search: Search
    against: str
    """What the cohort was held against: a cohort, a development list, itself, a ceiling."""
    outcome: LeakageOutcome
    counts: dict[str, int]
    reason: str


class LeakageEvidence(Strict):
    """All searches of one run; held for review if one of them is."""

    findings: tuple[LeakageFinding, ...]
    outcome: LeakageOutcome


def leakage_evidence(findings: tuple[LeakageFinding, ...]) -> LeakageEvidence:
    """The evidence of one run."""
    held = any(finding.outcome == "held_for_review" for finding in findings)
    return LeakageEvidence(findings=findings, outcome=_outcome(held))


def held_reasons(evidence: LeakageEvidence | None) -> tuple[str, ...]:
    """Why the model is held for review, a sentence a finding; none where it is not."""
    if evidence is None:
        return ()
    return tuple(of.reason for of in evidence.findings if of.outcome == "held_for_review")


def of_patients(found: "Overlap", against: str) -> LeakageFinding:
    """Patients that occur on both sides."""
    return LeakageFinding(
        search="patients",
        against=against,
        outcome=_outcome(found.shared > 0),
        counts={"cohort": found.first, "other": found.second, "shared": found.shared},
        reason=f"{found.shared} of {found.first} patients are in {against} too",
    )


def of_exact_pixels(found: "ExactDuplicates", against: str) -> LeakageFinding:
    """Cases with exactly the same pixels, within the cohort and on the other side."""
    return LeakageFinding(
        search="exact_pixels",
        against=against,
        outcome=_outcome(found.within + found.across > 0),
        counts={"cases": found.cases, "within": found.within, "across": found.across},
        reason=(
            f"of {found.cases} cases {found.within} repeat another of the cohort and "
            f"{found.across} are in {against}, to the pixel"
        ),
    )


def of_near_pictures(found: "NearDuplicates", against: str) -> LeakageFinding:
    """Pairs of pictures that look alike."""
    return LeakageFinding(
        search="near_pictures",
        against=against,
        outcome=_outcome(found.within + found.across > 0),
        counts={
            "cases": found.images,
            "cases_in_pairs": found.cases,
            "pairs_within": found.within,
            "pairs_across": found.across,
            "distance": found.distance,
        },
        reason=(
            f"{found.cases} of {found.images} cases look like another of the cohort "
            f"({found.within} pairs) or of {against} ({found.across} pairs)"
        ),
    )


def of_implausible_result(metric: str, low: float, ceiling: float, n: int) -> LeakageFinding:
    """A result that is too good: its lower bound `low` lies above the protocol's `ceiling`."""
    beyond = low > ceiling
    return LeakageFinding(
        search="implausible_result",
        against=f"a ceiling of {ceiling:g} for {metric}",
        outcome=_outcome(beyond),
        counts={"cases": n},
        reason=(
            f"{metric} is shown to exceed {ceiling:g}; look for leakage or a label in the input"
            if beyond
            else f"{metric} is not shown to exceed {ceiling:g}"
        ),
    )


def _outcome(held: bool) -> LeakageOutcome:
    return "held_for_review" if held else "clear"
